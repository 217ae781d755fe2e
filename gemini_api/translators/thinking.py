"""How hard a model thinks: Gemini's budgets and levels as one scale of efforts, and what a model can do of it.

The cut points are Google's own, published for its OpenAI-compatible endpoint (low 1024, medium 8192, high 24576).
"""

from __future__ import annotations

from collections.abc import Collection

from gemini_api.translators.base import Json

SCALE = ("off", "minimal", "low", "medium", "high", "xhigh", "max")
_RANK = {effort: rank for rank, effort in enumerate(SCALE)}

# effort -> tokens: for Anthropic's budget mode, and for Gemini 2.5.
ANTHROPIC_BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 32768, "max": 32768}
GEMINI_BUDGETS = {"off": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24576, "xhigh": 24576, "max": 24576}


def effort(config: Json | None) -> str | None:
    """The effort that a thinkingConfig asks for; None when it leaves that to the model."""
    if not config:
        return None
    if level := config.get("thinkingLevel"):
        word = str(level).lower()
        return word if word in _RANK else None
    budget = config.get("thinkingBudget")
    if budget is None or budget < 0:
        return None
    if budget == 0:
        return "off"
    if budget <= 512:
        return "minimal"
    if budget <= 1024:
        return "low"
    if budget <= 8192:
        return "medium"
    return "high" if budget <= 24576 else "xhigh"


def snap(wanted: str, supported: Collection[str]) -> str | None:
    """The nearest effort that is supported: the same, else the next lower (never from on to off), else the next higher.

    None when the model supports none at all. `off` on a model that cannot switch off gives its lowest effort.
    """
    if wanted in supported:
        return wanted
    rank = _RANK[wanted]
    lower = [each for each in SCALE[1:rank] if each in supported]
    if lower:
        return lower[-1]
    higher = [each for each in SCALE[rank + 1 :] if each in supported]
    return higher[0] if higher else None


def wants_thoughts(body: Json) -> bool:
    """Whether the client asked for thought summaries."""
    return bool(body.get("generationConfig", {}).get("thinkingConfig", {}).get("includeThoughts"))
