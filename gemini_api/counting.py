"""countTokens: our own estimate, or the vendor's exact number where a deployment says so. Policy and limits hold here too."""

from __future__ import annotations

from typing import Any, cast

from django.http import HttpResponse

from gemini_api import admission, exchange, tokens, wire
from gemini_api.call import Call
from gemini_api.dispatch import closing, headers, opened
from gemini_api.output import json_response
from gemini_api.permission import permitted
from gemini_api.question import Question, read_body, target_of, translator_of
from gemini_api.translators.base import CountingTranslator
from lib import json
from routing import upstream
from routing.catalog import DeploymentEntry
from routing.errors import RoutingError

Json = dict[str, Any]


async def count_tokens(call: Call) -> HttpResponse:
    flight = opened(call)
    with closing(flight):
        model = permitted(call)
        body = wire.normalise_count(await read_body(call))
        question = Question(call, model, body)
        await admission.admit(question, flight)
        counted, exact = await vendors_count(question, body), True
        if counted is None:
            by_modality = await tokens.estimate_aside(body, len(call.body))
            counted, exact = (
                {"totalTokens": sum(by_modality.values()), "promptTokensDetails": details(by_modality)},
                False,
            )
        flight.finish(200)
        said = {**headers(flight), "x-gatehouse-token-count": "exact" if exact else "estimate"}
        return json_response(json.dumps_line(counted), headers=said)


def details(by_modality: dict[str, int]) -> list[Json]:
    return [{"modality": name, "tokenCount": count} for name, count in by_modality.items() if count]


async def vendors_count(question: Question, body: Json) -> Json | None:
    """The first deployment that is asked to count exactly, asked. Any failure means our own estimate will do."""
    for deployment in question.model.deployments:
        if deployment.exact_token_count and "count" in deployment.backend.actions:
            try:
                return {"totalTokens": await ask(question, body, deployment)}
            except RoutingError:
                return None
    return None


async def ask(question: Question, body: Json, deployment: DeploymentEntry) -> int:
    translator = cast(CountingTranslator, translator_of(deployment))
    letter = translator.count_request(body, target_of(deployment, question.call, question.model))
    request = await exchange.prepared(deployment, letter, "count")
    said = await upstream.send(deployment, request, deadline=question.call.deadline)
    return translator.count_response(json.loads(said.body))
