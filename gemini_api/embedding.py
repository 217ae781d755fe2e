"""embedContent and batchEmbedContents: texts as vectors, from a deployment that can."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, cast

from django.http import HttpResponse

from gemini_api import admission, exchange, wire
from gemini_api.answers import Reading, tokens
from gemini_api.call import Call
from gemini_api.dispatch import answered, closing, finished, opened
from gemini_api.errors import Unimplemented
from gemini_api.permission import permitted
from gemini_api.question import Question, read_body, target_of, translator_of
from gemini_api.translators.base import EmbeddingTranslator, Letter
from lib import json
from routing import router, upstream
from routing.catalog import DeploymentEntry
from routing.errors import UpstreamError, UpstreamRefusal
from routing.router import Attempt
from usage.event import Tokens
from usage.flight import Flight

Json = dict[str, Any]
TOGETHER = 8  # exchanges of one call at the same time, where a deployment takes few contents each


@dataclass(frozen=True)
class Form:
    """One way of asking for vectors: how its requests are read, and how the vectors are told."""

    read: Callable[[Json, str], list[Json]]
    tell: Callable[[list[list[float]], Json], Json]


def _embeddings(vectors: list[list[float]], usage: Json) -> Json:
    return {"embeddings": [{"values": vector} for vector in vectors], **usage}


def _embedding(vectors: list[list[float]], usage: Json) -> Json:
    return {"embedding": {"values": vectors[0]}, **usage}


def _predictions(vectors: list[list[float]], usage: Json) -> Json:
    return {"predictions": [{"embeddings": {"values": vector}} for vector in vectors], **usage}


ONE = Form(lambda body, model: wire.normalise_embed(body, model=model), _embedding)
MANY = Form(lambda body, model: wire.normalise_embed(body, batch=True, model=model), _embeddings)
PREDICT = Form(lambda body, model: wire.normalise_predict(body), _predictions)


async def embed(call: Call, form: Form) -> HttpResponse:
    flight = opened(call)
    with closing(flight, call):
        model = permitted(call)
        requests = form.read(await read_body(call), call.requested)
        words = {"contents": [request["content"] for request in requests]}
        question = Question(call, model, {"requests": requests}, action="embed", normal=words)
        await admission.admit(question, flight)
        if not any("embed" in deployment.actions for deployment in model.deployments):
            raise Unimplemented(f"models/{model.name} has no deployment that embeds.")
        for attempt in router.attempts(model, question.hints):
            if attempt.delay:
                await asyncio.sleep(attempt.delay)
            with attempt as deployment:
                vectors, reading = await ask(question, requests, deployment, flight, attempt)
                attempt.first_byte()
                finished(flight, attempt, reading)
                counted = {"usageMetadata": {"promptTokenCount": reading.tokens.prompt}} if reading.tokens else {}
                return answered(flight, json.dumps_line(form.tell(vectors, counted)))
    raise AssertionError("the last attempt returns or raises")


async def ask(
    question: Question, requests: list[Json], deployment: DeploymentEntry, flight: Flight, attempt: Attempt
) -> tuple[list[list[float]], Reading]:
    """Every vector, in the order of the requests: in one exchange, or as many as the deployment's limit asks for."""
    translator = cast(EmbeddingTranslator, translator_of(deployment))
    target = target_of(deployment, question.call, question.model)
    most = deployment.backend.embeds_at_once(deployment.endpoint)
    letters = [
        translator.embed_request(requests[place : place + most], target) for place in range(0, len(requests), most)
    ]
    flight.reaching(deployment, tuple(dict.fromkeys(path for letter in letters for path in letter.dropped)))
    together = asyncio.Semaphore(TOGETHER)

    async def answered(letter: Letter) -> Json:
        async with together:
            return await exchanged(translator, letter, deployment, attempt)

    if len(letters) == 1:
        answers = [await exchanged(translator, letters[0], deployment, attempt)]
    else:
        answers = await all_of([answered(letter) for letter in letters])
    vectors = [
        vector
        for letter, answer in zip(letters, answers, strict=True)
        for vector in translator.embed_response(answer, letter.memo)
    ]
    if len(vectors) != len(requests):
        raise UpstreamError("protocol", f"{len(requests)} contents were embedded as {len(vectors)}.")
    if not all(isinstance(vector, list) and vector and isinstance(vector[0], int | float) for vector in vectors):
        raise UpstreamError("protocol", "What should be a vector is none.")
    usages = [translator.embed_usage(answer) for answer in answers]
    reading = Reading(size=len(vectors))
    if all(usages):
        reading.tokens = Tokens(prompt=sum(tokens(usage).prompt for usage in usages))
    return vectors, reading


async def all_of(calls: list[Coroutine[Any, Any, Json]]) -> list[Json]:
    """Every result, or the first failure as it is, with the others cancelled."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


async def exchanged(
    translator: EmbeddingTranslator, letter: Letter, deployment: DeploymentEntry, attempt: Attempt
) -> Json:
    """One exchange. Raises UpstreamError."""
    request = await exchange.prepared(deployment, letter, "embed")
    try:
        said = await upstream.send(deployment, request, deadline=attempt.deadline, timeouts=attempt.timeouts)
    except UpstreamRefusal as refusal:
        meant = translator.error(refusal, letter.memo)
        raise (
            meant if isinstance(meant, UpstreamError) else UpstreamError("invalid", "The provider blocked this text.")
        ) from None
    try:
        answer: Json = json.loads(said.body)
    except json.JSONDecodeError:
        raise UpstreamError("protocol", "The answer is not JSON.") from None
    if not isinstance(answer, dict):
        raise UpstreamError("protocol", "The answer is not a JSON object.")
    return answer
