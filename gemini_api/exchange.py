"""One letter to one deployment, and its answer read back as Gemini. Raises UpstreamError; the router decides what then."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from gemini_api import answers
from gemini_api.answers import Answer, Reading
from gemini_api.question import Question, translator_of
from gemini_api.translators.base import Letter, StreamTranslator
from lib import json
from routing import upstream
from routing.backends.base import Action, UpstreamRequest
from routing.catalog import DeploymentEntry
from routing.errors import UpstreamError, UpstreamRefusal
from routing.router import Attempt
from usage.flight import Flight

Json = dict[str, Any]


async def ask(question: Question, deployment: DeploymentEntry, flight: Flight, attempt: Attempt) -> Answer:
    """The whole answer at once."""
    letter, first = question.letter(deployment), True
    while True:
        flight.reaching(deployment, letter.dropped)
        request = await prepared(deployment, letter, "generate")
        try:
            said = await upstream.send(deployment, request, deadline=attempt.deadline, timeouts=attempt.timeouts)
            chunk = read_answer(deployment, named(letter, deployment, said.headers), said.body)
        except UpstreamRefusal as refusal:
            meant = understood(question, deployment, letter, refusal, again=first)
            if isinstance(meant, Letter):
                letter, first = meant, False
                continue
            chunk = meant
        attempt.first_byte()
        reading = Reading()
        flight.delivered(answers.read(chunk, reading))
        return Answer(answers.payload(chunk), reading)


@asynccontextmanager
async def listen(
    question: Question, deployment: DeploymentEntry, flight: Flight, attempt: Attempt, reading: Reading
) -> AsyncIterator[AsyncIterator[bytes]]:
    """The answer as it comes: an iterator of payloads. What is for the very end lands in `reading.last`."""
    letter, first = question.letter(deployment), True
    while True:
        flight.reaching(deployment, letter.dropped)
        request = await prepared(deployment, letter, "stream")
        try:
            async with upstream.open_stream(
                deployment, request, deadline=attempt.deadline, timeouts=attempt.timeouts
            ) as frames:
                memo = named(letter, deployment, frames.headers).memo
                yield pieces(frames, translator_of(deployment).Stream(memo), flight, attempt, reading)
            return
        except UpstreamRefusal as refusal:
            meant = understood(question, deployment, letter, refusal, again=first)
        if not isinstance(meant, Letter):
            yield one_piece(meant, flight, reading)
            return
        letter, first = meant, False


def named(letter: Letter, deployment: DeploymentEntry, headers: Mapping[str, str]) -> Letter:
    """The letter, knowing the answer's id where only the head of the answer tells it."""
    name = deployment.backend.request_id_header
    if not name or not headers.get(name):
        return letter
    return replace(letter, memo=replace(letter.memo, response_id=headers[name][:100]))


def understood(
    question: Question, deployment: DeploymentEntry, letter: Letter, refusal: UpstreamRefusal, *, again: bool
) -> Json | Letter:
    """What a refusal means: really an answer (a blocked prompt), or another letter to try, else UpstreamError."""
    meant = translator_of(deployment).error(refusal, letter.memo)
    if not isinstance(meant, UpstreamError):
        return meant
    second = question.second_letter(deployment, letter, meant) if again else None
    if second is None:
        raise meant
    return second


def read_answer(deployment: DeploymentEntry, letter: Letter, body: bytes) -> Json:
    translator = translator_of(deployment)
    try:
        answer = json.loads(body)
    except json.JSONDecodeError:
        raise UpstreamError("protocol", "The answer is not JSON.") from None
    as_it_came = getattr(translator, "response_bytes", None)
    if as_it_came is not None:
        unchanged: Json = as_it_came(body, answer, letter.memo)
        return unchanged
    return translator.response(answer, letter.memo)


async def pieces(
    frames: upstream.Stream, memory: StreamTranslator, flight: Flight, attempt: Attempt, reading: Reading
) -> AsyncIterator[bytes]:
    """Payloads as they come; where an empty answer is tried elsewhere, they wait for the first that says something."""
    first, told, patient = True, False, attempt.model.retry_empty
    early: list[bytes] = []
    async for frame in frames:
        for chunk in memory.feed(frame):
            if first:
                attempt.first_byte()
                first = False
            flight.delivered(answers.read(chunk, reading))
            if reading.counted and reading.tokens is not None:
                flight.saw(reading.tokens)
            if patient and not reading.size:
                early.append(answers.payload(chunk))
                continue
            if early:
                for payload in early:
                    yield payload
                early = []
            yield answers.payload(chunk)
        if not (told or first) and (counted := getattr(memory, "counted", None)):
            told = True
            flight.saw(answers.asked(counted))
        if memory.ended:
            break
    reading.last += early
    for chunk in memory.finish():
        flight.delivered(answers.read(chunk, reading))
        reading.last.append(answers.payload(chunk))


async def one_piece(chunk: Json, flight: Flight, reading: Reading) -> AsyncIterator[bytes]:
    """A prompt that the provider refused is an answer of one chunk, and that is the last."""
    flight.delivered(answers.read(chunk, reading))
    reading.last.append(answers.payload(chunk))
    return
    yield b""  # makes this an iterator


async def prepared(deployment: DeploymentEntry, letter: Letter, action: Action) -> UpstreamRequest:
    return await deployment.backend.prepare(deployment.endpoint, letter.payload, action)
