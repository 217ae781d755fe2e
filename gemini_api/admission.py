"""What one call may use at most, asked of the limiter before anything is sent; and the headers that tell of limits.

The ask is the worst case: the prompt as counted here, the output cap the client set or the model's own, at the
price of the dearest deployment that may serve. Settlement replaces it by what was really used.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from gemini_api import tokens
from gemini_api.errors import GeminiError
from gemini_api.question import Question, token_factor
from gemini_api.told import quota_id, quota_value
from keys import limits
from keys.context import LimitRule
from keys.limits.base import Ask, LimitReached, Standing
from routing import loading
from routing.catalog import DeploymentEntry
from usage import prices
from usage.flight import Flight

Json = dict[str, Any]
MOST_CANDIDATES = 8  # the API's own bound
TYPICAL_OUTPUT = 1024  # tokens; what a call of unknown end is taken to have produced where no limit holds anything


class NoPrice(GeminiError):
    """A spend limit cannot be kept for a model whose price nobody knows: the administrator's to set."""

    code, status = 400, "FAILED_PRECONDITION"


async def admit(question: Question, flight: Flight) -> None:
    """Take what this call may use in every limit that applies, or raise LimitReached / LimitsUnavailable / NoPrice."""
    question.hints.call_id = flight.call_id
    flight.follow(question.hints.notes)
    call, model = question.call, question.model
    rules = limits.rules_for(call.key, model.name)
    if question.hints.action == "count":
        ask = Ask(flight.call_id, model.name)
    elif any(rule.metric in ("tokens", "spend") for rule in rules):
        factor = max((token_factor(deployment) for deployment in model.deployments), default=1.0)
        counted = await tokens.estimate_aside(question.normal, len(call.body), factor)
        question.prompt_tokens = question.hints.prompt_tokens = sum(counted.values())
        ask = worst_case(question, flight.call_id, spend=any(rule.metric == "spend" for rule in rules))
    else:  # no limit asks for tokens or money: this is what a call that nobody saw the end of is charged by
        output = min(output_cap(question, TYPICAL_OUTPUT), model.output_token_limit)
        ask = Ask(flight.call_id, model.name, tokens=question.prompt_tokens + output)
    flight.asked(ask, question.prompt_tokens)
    if rules:
        try:
            flight.admitted(await limits.current().admit(call.key, rules, ask, time.time()))
        except LimitReached as refused:
            flight.refused(refused.standing)
            raise


def worst_case(question: Question, call_id: str, *, spend: bool) -> Ask:
    prompt = question.prompt_tokens
    output = output_cap(question, question.model.output_token_limit)
    nano = dearest(question, prompt, output) if spend else 0
    return Ask(call_id, question.model.name, tokens=prompt + output, spend=nano)


def dearest(question: Question, prompt: int, output: int) -> int:
    """Nano-dollars of the worst case at the dearest deployment that may serve this call, fallback models included."""
    worst = 0
    for deployment in candidates(question):
        card = prices.card(deployment)
        if card is not None:
            worst = max(worst, card.worst(prompt, output))
        elif question.model.unpriced == "refuse":
            raise NoPrice(
                f"The price of {question.model.name} is not known, and a spend limit applies to this call. "
                "Please ask your administrator to set its price."
            )
    return worst


def candidates(question: Question) -> Iterable[DeploymentEntry]:
    yield from question.model.deployments
    for name in question.model.fallbacks:
        other = loading.current().resolve(name, question.call.key.organization_id)
        if other is not None:
            yield from other.deployments


def output_cap(question: Question, otherwise: int) -> int:
    """The most tokens this request lets a model write, all candidates together."""
    if question.hints.action in ("count", "embed"):
        return 0
    body = question.body
    config = body.get("generationConfig") or body.get("generation_config")
    if not isinstance(config, dict):
        return otherwise
    cap = whole(config.get("maxOutputTokens") or config.get("max_output_tokens"), otherwise)
    cap = min(cap, question.model.output_token_limit)  # no model writes more, whatever it is asked
    return cap * min(whole(config.get("candidateCount") or config.get("candidate_count"), 1), MOST_CANDIDATES)


def whole(value: Any, otherwise: int) -> int:
    try:
        number = int(float(value))
    except (TypeError, ValueError, OverflowError):
        return otherwise
    return min(number, 10**9) if number > 0 else otherwise


def headers(flight: Flight) -> dict[str, str]:
    """The tightest limit's amount, what is left of it and when it renews (seconds)."""
    standing: Standing | None = flight.standing
    if standing is None:
        return {}
    rule: LimitRule = standing.rule
    left = quota_value(rule_of(rule, standing.remaining))
    return {
        "x-ratelimit-limit": quota_value(rule),
        "x-ratelimit-remaining": left,
        "x-ratelimit-reset": str(max(0, round(standing.reset))),
        "x-ratelimit-quota": quota_id(rule),
    }


def rule_of(rule: LimitRule, amount: int) -> LimitRule:
    return LimitRule(
        rule.id, rule.subject, rule.subject_id, rule.metric, rule.period, max(0, amount), rule.pattern, rule.hard
    )
