"""countTokens: our own estimate, or the vendor's exact number where a deployment says so. Policy and limits hold here too."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from typing import Any, cast

from django.http import HttpResponse

from gemini_api import admission, exchange, tokens, wire
from gemini_api.call import Call
from gemini_api.dispatch import closing, headers, opened
from gemini_api.errors import GeminiError
from gemini_api.output import json_response
from gemini_api.permission import permitted
from gemini_api.question import Question, read_body, target_of, token_factor, translator_of
from gemini_api.translators.base import CountingTranslator
from lib import json
from lib.bounded import forget_oldest
from routing import upstream
from routing.catalog import DeploymentEntry
from routing.errors import RoutingError, UpstreamError

Json = dict[str, Any]
PATIENCE = 5.0  # seconds a vendor has for counting; then our estimate will do
LEFT_ALONE = 10.0  # seconds after a failure, in which every client would wait for the next one
KEPT, MOST = 10.0, 500  # seconds, answers: a command-line client counts the same again and again

_counted: dict[bytes, tuple[Json, float]] = {}  # hash of deployment and request -> answer, until when; oldest first
_silent: dict[str, float] = {}  # version of a deployment that failed -> until when it is not asked


async def count_tokens(call: Call) -> HttpResponse:
    flight = opened(call)
    with closing(flight, call):
        model = permitted(call)
        body = wire.normalise_count(await read_body(call))
        question = Question(call, model, body, action="count", normal=body)
        await admission.admit(question, flight)
        exact = await vendors_count(question, body)
        counted = exact or await estimate(question, body)
        flight.finish(200)
        said = {**headers(flight), "x-gatehouse-token-count": "exact" if exact else "estimate"}
        return json_response(json.dumps_line(counted), headers=said)


async def estimate(question: Question, body: Json) -> Json:
    """As the model of the first deployment counts, which is the one that answers unless something is wrong."""
    deployments = question.model.deployments
    factor = token_factor(deployments[0]) if deployments else 1.0
    by_modality = await tokens.estimate_aside(body, len(question.call.body), factor)
    details = [{"modality": name, "tokenCount": count} for name, count in by_modality.items() if count]
    return {"totalTokens": sum(by_modality.values()), "promptTokensDetails": details}


async def vendors_count(question: Question, body: Json) -> Json | None:
    """The count of the first deployment that is to count exactly. Any failure means that our own estimate will do."""
    for deployment in question.model.deployments:
        if deployment.exact_token_count and "count" in deployment.actions:
            return await known_or_asked(question, body, deployment)
    return None


async def known_or_asked(question: Question, body: Json, deployment: DeploymentEntry) -> Json | None:
    now = time.monotonic()
    key = hashlib.blake2b(question.call.body, key=deployment.version.encode()[:64], digest_size=16)
    key.update(question.call.key.organization_id.encode())  # whose sealed reasoning can be read back
    found, until = _counted.get(key.digest(), (None, 0.0))
    if now < until:
        return found
    if now < _silent.get(deployment.version, 0.0):
        return None
    try:
        counted = await ask(question, body, deployment)
    except UpstreamError:
        _silent[deployment.version] = time.monotonic() + LEFT_ALONE
        forget_oldest(_silent, MOST)
        return None
    except (RoutingError, GeminiError):  # this request cannot be counted there: the next one may
        return None
    _counted.pop(key.digest(), None)
    _counted[key.digest()] = (counted, time.monotonic() + KEPT)
    forget_oldest(_counted, MOST)
    return counted


async def ask(question: Question, body: Json, deployment: DeploymentEntry) -> Json:
    """One count by the vendor. Raises RoutingError, and GeminiError for what it cannot take."""
    call = question.call
    translator = cast(CountingTranslator, translator_of(deployment))
    target = replace(target_of(deployment, call, question.model), strict=False)
    request = await exchange.prepared(deployment, translator.count_request(body, target), "count")
    until = time.monotonic() + PATIENCE  # from here on: the first call of a kind may have to get a token before
    deadline = until if call.deadline is None else min(until, call.deadline)
    said = await upstream.send(deployment, request, deadline=deadline)
    try:
        answer = json.loads(said.body)
    except json.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict) or not (total := translator.count_response(answer)):
        raise UpstreamError("protocol", "The answer is no count.")
    details = answer.get("promptTokensDetails")  # Gemini's own
    return {"totalTokens": total, **({"promptTokensDetails": details} if isinstance(details, list) else {})}
