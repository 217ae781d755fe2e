"""What Claude's models want of a request, whoever hosts them: thinking, forced tools, sampling. By capability row."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from gemini_api import signatures
from gemini_api.translators import thinking
from gemini_api.translators.base import Json, Target
from gemini_api.translators.capabilities import Row
from gemini_api.translators.losses import Losses
from gemini_api.translators.tools import Choice
from gemini_api.translators.turns import Opaque, Turn

_LEAST_BUDGET = 1024
_THINKING = "generationConfig.thinkingConfig"
_MODE = "toolConfig.functionCallingConfig.mode"


@dataclass(frozen=True, slots=True)
class Plan:
    """thinking: the field of that name, None to say nothing. effort: for output_config, "" for none. forced: a function
    may be forced. thinks: the request switches thinking on, which forbids most sampling."""

    thinking: Json | None = None
    effort: str = ""
    forced: bool = False
    thinks: bool = False


def plan(body: Json, caps: Row, choice: Choice, said: list[Turn], most: int | None, losses: Losses) -> Plan:
    """How the model shall think, and whether it can be forced to call. most: max_tokens, None for the model's own."""
    forced = choice.mode == "ANY"
    if forced and caps["forced_tools"] == "no":
        losses.drop(_MODE, "This model cannot be forced to call a function.")
        forced = False
    asked: Json = body.get("generationConfig", {}).get("thinkingConfig", {})
    effort = thinking.effort(asked)
    if not caps["thinking"]:
        if effort not in (None, "off") or asked.get("includeThoughts"):
            losses.drop(_THINKING)
        return Plan(forced=forced)
    if effort == "off":
        if not caps["always_on"]:
            return Plan(caps["off"] if caps["default_on"] else None, forced=forced)
        losses.drop(_THINKING, "This model cannot stop thinking.")
    if caps["thinking"][0] == "adaptive":
        return _adaptive(asked, effort, caps, forced)
    if effort is None:
        return Plan(forced=forced)
    budget = _budget(asked, effort, most, hindered=_hindered(said, forced, caps))
    if budget is None:
        losses.drop(_THINKING, "Thinking needs room in maxOutputTokens, and goes with no forced function.")
        return Plan(forced=forced)
    return Plan({"type": "enabled", "budget_tokens": budget}, forced=forced, thinks=True)


def _adaptive(asked: Json, effort: str | None, caps: Row, forced: bool) -> Plan:
    """Unasked, the model does what it does; asked for thoughts, or for as much as it likes (-1), it decides itself."""
    shown = asked.get("includeThoughts")
    if effort is None and not shown and asked.get("thinkingBudget") != -1:
        return Plan(forced=forced, thinks=caps["default_on"])
    field = {"type": "adaptive", "display": "summarized" if shown else "omitted"}
    snapped = thinking.snap(effort, caps["efforts"]) if effort is not None and caps["effort"] else None
    return Plan(field, snapped or "", forced=forced, thinks=True)


def _budget(asked: Json, effort: str, most: int | None, *, hindered: bool) -> int | None:
    """Tokens to think with, at least 1024 and less than `most`; None when there is no room."""
    if hindered or (most is not None and most <= _LEAST_BUDGET):
        return None
    wanted = asked.get("thinkingBudget") or thinking.ANTHROPIC_BUDGETS[effort]
    budget = max(_LEAST_BUDGET, wanted)
    return budget if most is None else min(budget, most - 1)


def _hindered(said: list[Turn], forced: bool, caps: Row) -> bool:
    """What a budget does not go with: a forced function, a turn to continue, a tool loop that began without thoughts."""
    if forced and caps["forced_tools"] == "not_thinking":
        return True
    if said[-1].role == "model":
        return True
    if not said[-1].results:
        return False
    opening = said[-2].items[0]
    return not (isinstance(opening, Opaque) and bool(opening.blocks))


def sampling(config: Json, caps: Row, thinks: bool, losses: Losses) -> Json:
    """{"temperature", "top_p", "top_k"}, as far as the model takes them beside everything else."""
    found: Json = {}
    temperature, top_p = config.get("temperature"), config.get("topP")
    closed = caps["sampling"] != "yes"
    if temperature is not None and (closed or thinks):
        if temperature != 1:  # 1 is what the model does anyway
            losses.drop("generationConfig.temperature")
    elif temperature is not None:
        if temperature > 1:
            losses.drop("generationConfig.temperature", "The highest temperature of this model is 1.")
        if temperature < 1 or not (caps["one_sampling"] and top_p is not None):
            found["temperature"] = min(temperature, 1)
    if top_p is not None:
        if closed or (thinks and top_p < 0.95) or (caps["one_sampling"] and "temperature" in found):
            if top_p != 1:
                losses.drop("generationConfig.topP")
        else:
            found["top_p"] = top_p
    if "topK" in config:
        if closed or thinks or not caps["top_k"]:
            losses.drop("generationConfig.topK")
        else:
            found["top_k"] = config["topK"]
    return found


def reader(body: Json, family: str, target: Target, scope: str | None) -> Callable[[str], list[Json]]:
    """Opens signatures for `turns.read`. Blocks of another model only help inside a tool loop that is still open."""
    last = body["contents"][-1]["parts"]
    model = None if any("functionResponse" in part for part in last) else target.model

    def opened(signature: str) -> list[Json]:
        return signatures.blocks_for(signature, family=family, scope=scope, tenant=target.tenant, model=model)

    return opened


# Words of a refusal that blames the reasoning of an earlier turn, as they were seen:
#   messages.1.content.0: Invalid `signature` in `thinking` block
#   Expected `thinking` or `redacted_thinking`, but found `tool_use`
#   `thinking` or `redacted_thinking` blocks in the latest assistant message cannot be modified
#   User messages cannot contain reasoning content
_BLAMES_REASONING = re.compile(
    r"(?i)thinking`? blocks?\b|expected `?thinking|reasoning ?content|thinking.{0,40}\bprefix"
)
# What some of Claude's models refuse -> the client's name for it.
SAMPLING = {
    "temperature": "generationConfig.temperature",
    "top_p": "generationConfig.topP",
    "top_k": "generationConfig.topK",
}
_BLAMES_SAMPLING = re.compile(r"(?i)^`?(temperature|top_p|top_k)`?\b.{0,80}(not permitted|deprecated|not supported)")


def blames_reasoning(message: str) -> bool:
    return _BLAMES_REASONING.search(message) is not None


def droppable(message: str) -> str:
    """What a second try may leave out after this refusal: "thoughtSignature", a sampling parameter, or ""."""
    if blames_reasoning(message):
        return "thoughtSignature"
    found = _BLAMES_SAMPLING.search(message)
    return found.group(1).lower() if found else ""
