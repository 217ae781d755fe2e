"""embedContent and batchEmbedContents: texts as vectors, from a deployment that can."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from django.http import HttpResponse

from gemini_api import admission, exchange, wire
from gemini_api.answers import Reading, tokens
from gemini_api.call import Call
from gemini_api.dispatch import closing, finished, headers, opened
from gemini_api.errors import Unimplemented
from gemini_api.output import json_response
from gemini_api.permission import permitted
from gemini_api.question import Question, read_body, target_of, translator_of
from gemini_api.translators.base import EmbeddingTranslator
from lib import json
from routing import router, upstream
from routing.catalog import DeploymentEntry
from routing.errors import UpstreamError, UpstreamRefusal
from routing.router import Attempt
from usage.flight import Flight

Json = dict[str, Any]


async def embed(call: Call) -> HttpResponse:
    flight = opened(call)
    with closing(flight):
        model = permitted(call)
        batch = call.action == "batchEmbedContents"
        requests = wire.normalise_embed(await read_body(call), batch=batch, model=call.requested)
        question = Question(call, model, {"requests": requests})
        await admission.admit(question, flight)
        question.hints.action = "embed"
        if not any("embed" in deployment.backend.actions for deployment in model.deployments):
            raise Unimplemented(f"models/{model.name} has no deployment that embeds.")
        for attempt in router.attempts(model, question.hints):
            if attempt.delay:
                await asyncio.sleep(attempt.delay)
            with attempt as deployment:
                vectors, reading = await ask(question, requests, deployment, flight, attempt)
                attempt.first_byte()
                finished(flight, attempt, reading)
                return json_response(json.dumps_line(told(call, vectors, reading)), headers=headers(flight))
    raise AssertionError("the last attempt returns or raises")


async def ask(
    question: Question, requests: list[Json], deployment: DeploymentEntry, flight: Flight, attempt: Attempt
) -> tuple[list[list[float]], Reading]:
    translator = cast(EmbeddingTranslator, translator_of(deployment))
    letter = translator.embed_request(requests, target_of(deployment, question.call, question.model))
    flight.reaching(deployment, letter.dropped)
    request = await exchange.prepared(deployment, letter, "embed")
    try:
        said = await upstream.send(deployment, request, deadline=attempt.deadline, timeouts=attempt.timeouts)
    except UpstreamRefusal as refusal:
        meant = translator.error(refusal, letter.memo)
        raise (
            meant if isinstance(meant, UpstreamError) else UpstreamError("invalid", "The provider blocked this text.")
        ) from None
    try:
        answer = json.loads(said.body)
    except json.JSONDecodeError:
        raise UpstreamError("protocol", "The answer is not JSON.") from None
    vectors = translator.embed_response(answer, letter.memo)
    reading = Reading(size=len(said.body))
    if usage := translator.embed_usage(answer):
        reading.tokens = tokens(usage)
    return vectors, reading


def told(call: Call, vectors: list[list[float]], reading: Reading) -> Json:
    embeddings = [{"values": vector} for vector in vectors]
    if call.action == "batchEmbedContents":
        return {"embeddings": embeddings}
    return {"embedding": embeddings[0]}
