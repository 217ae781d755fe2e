"""The way of one call, top to bottom. Whatever ends it leaves through `closing`: one event, one settlement.

Unary and streamed calls go the same way; a stream only differs in that its answer arrives in pieces, and that after
the first piece has left there is no second try and no HTTP status any more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

from django.http import HttpResponse

from gemini_api import admission, continuation, exchange
from gemini_api.answers import Reading
from gemini_api.call import Call
from gemini_api.errors import Unavailable
from gemini_api.output import ARRAY, EVENTS, Begun, Framing, Noted, StreamedAnswer, json_response
from gemini_api.permission import named, permitted
from gemini_api.question import read_question
from gemini_api.told import told
from keys import limits, lookup
from lib import json
from routing import router
from routing.errors import UpstreamError
from routing.router import Attempt
from usage import bodies
from usage import flight as flights
from usage.flight import Flight

DRAINED = "timeout graceful shutdown exceeded"  # with which the server cancels what outlasts its drain
CLOSE_TO = 0.05  # seconds: an upstream's time-out that the client's own deadline set


async def generate(call: Call) -> HttpResponse:
    flight = opened(call)
    with closing(flight, call):
        question = await read_question(call, permitted(call))
        await admission.admit(question, flight)
        for attempt in router.attempts(question.model, question.hints):
            if attempt.delay:
                await asyncio.sleep(attempt.delay)
            with attempt as deployment:
                answer = await exchange.ask(question, deployment, flight, attempt)
                finished(flight, attempt, answer.reading)
                return answered(flight, answer.payload)
    raise AssertionError("the last attempt returns or raises")


async def stream(call: Call) -> StreamedAnswer:
    """Waits for the first chunk: until it is there, a failure can still be an HTTP status."""
    flight = opened(call)
    framing: Framing = EVENTS if call.sse else ARRAY
    if flight.kept is not None:
        framing = Noted(framing, flight.kept.add)
    chunks = answer_in_pieces(call, flight, framing)
    first = await anext(chunks)
    return StreamedAnswer(
        Begun(first, chunks), content_type=framing.content_type, left=flight.left, headers=headers(flight)
    )


async def answer_in_pieces(call: Call, flight: Flight, framing: Framing) -> AsyncGenerator[bytes]:
    heard = False
    try:
        with closing(flight, call):
            question = await read_question(call, permitted(call))
            await admission.admit(question, flight)
            for attempt in router.attempts(question.model, question.hints):
                if attempt.delay:
                    await asyncio.sleep(attempt.delay)
                with attempt as deployment:
                    reading = Reading()
                    async with exchange.listen(question, deployment, flight, attempt, reading) as pieces:
                        async for payload in pieces:
                            if not heard:
                                attempt.commit()  # the client hears it now: no second try
                            yield framing.chunk(payload, first=not heard)
                            heard = True
                    finished(flight, attempt, reading)
                    for payload in reading.last:
                        yield framing.chunk(payload, first=not heard)
                        heard = True
                    yield framing.end(first=not heard)
                    return
    except Exception as trouble:
        if not heard:
            raise
        for piece in framing.error(told(trouble), first=False):
            yield piece


# The ends of a call


def opened(call: Call) -> Flight:
    """A name that is no model's stands in the record as what was asked, and not among the models: clients can think up
    as many as they like, and every model has roll-ups of its own."""
    lookup.mark_used(call.key)
    model = named(call)
    flight = flights.open(
        call.key,
        action=call.action,
        model=model.name if model else "",
        requested_model=call.requested,
        stream=call.stream,
        limiter=limits.current(),
        client=call.client,
        address=call.address,
        label=call.label,
        flags=("playground",) if call.playground else (),
    )
    if call.key.log_bodies:
        flight.kept = bodies.begin(call.key, call.body)
    return flight


@contextmanager
def closing(flight: Flight, call: Call) -> Iterator[None]:
    """Every way out of a call: a failure is told in Google's words and recorded as it was told."""
    with flight:
        try:
            yield
        except (Exception, asyncio.CancelledError) as trouble:
            error = told(stopped(trouble) if isinstance(trouble, asyncio.CancelledError) else trouble)
            flags = ("cut",) if flight.heard else ()
            flight.finish(
                error.code, error.status, error=said(error, trouble), flags=flags, unanswered=out_of_time(call, trouble)
            )
            error.answer_headers = headers(flight)
            if flight.kept is not None:
                flight.kept.add(json.dumps_line(error.body()))
            if error is trouble:
                raise
            raise error from trouble


def stopped(leaving: asyncio.CancelledError) -> Unavailable:
    """What a call is told that outlasted the server's drain. A client that left is told nothing: raised again."""
    if DRAINED not in str(leaving):
        raise leaving
    task = asyncio.current_task()
    assert task is not None
    task.uncancel()
    return Unavailable("The gateway is being restarted. Please try again.", retry_after=1)


def out_of_time(call: Call, trouble: BaseException) -> bool:
    """Whether the client's own deadline ended a call that its upstream may go on answering, and billing."""
    return (
        isinstance(trouble, UpstreamError)
        and trouble.kind == "timeout"
        and trouble.sent
        and call.deadline is not None
        and time.monotonic() >= call.deadline - CLOSE_TO
    )


def finished(flight: Flight, attempt: Attempt, reading: Reading) -> None:
    """The answer is complete: recorded before its last bytes leave. Raises EmptyAnswer when another try is due."""
    if reading.empty:
        attempt.empty()
    if reading.continuation:
        continuation.remember(reading.continuation, attempt.deployment.id)
    attempt.answered(tokens=reading.tokens.total if reading.tokens else 0)
    if reading.tokens is not None and reading.counted:
        flight.saw(reading.tokens)
    flight.finish(200, finish_reason=reading.finish_reason, flags=("estimated",) if reading.estimated else ())


def answered(flight: Flight, payload: bytes, **more: str) -> HttpResponse:
    """The whole answer, as it leaves. more: headers."""
    if flight.kept is not None:
        flight.kept.add(payload)
    return json_response(payload, headers=headers(flight) | more)


def said(error: Exception, trouble: BaseException) -> str:
    """For the record: what the client was told, and what really happened when that is something else."""
    return str(error) if str(error) == str(trouble) else f"{error} [{trouble}]"


def headers(flight: Flight) -> dict[str, str]:
    found = {"x-request-id": flight.call_id, **admission.headers(flight)}
    if flight.dropped:
        found["x-gatehouse-dropped"] = ", ".join(flight.dropped)
    return found
