"""A prompt that the vendor refused before it generated anything: in Gemini that is a 200 with `promptFeedback`."""

from __future__ import annotations

import secrets
from typing import Any

from gemini_api.translators import usage
from gemini_api.translators.base import Json, Memo

# A content filter's category -> Gemini's.
_CATEGORIES = {
    "hate": "HARM_CATEGORY_HATE_SPEECH",
    "sexual": "HARM_CATEGORY_SEXUALLY_EXPLICIT",
    "violence": "HARM_CATEGORY_DANGEROUS_CONTENT",
    "self_harm": "HARM_CATEGORY_DANGEROUS_CONTENT",
    "jailbreak": "HARM_CATEGORY_JAILBREAK",
    "indirect_attack": "HARM_CATEGORY_JAILBREAK",
}
_PROBABILITIES = {"safe": "NEGLIGIBLE", "low": "LOW", "medium": "MEDIUM", "high": "HIGH"}


def blocked(
    memo: Memo, reason: str = "SAFETY", *, ratings: list[Json] | None = None, counted: Json | None = None
) -> Json:
    """The answer. reason: one of Gemini's BlockReason. counted: usageMetadata when the vendor gave one, else estimated."""
    feedback: Json = {"blockReason": reason}
    if ratings:
        feedback["safetyRatings"] = ratings
    return {
        "promptFeedback": feedback,
        "usageMetadata": counted or usage.estimated(memo.prompt_tokens, 0),
        "modelVersion": memo.model,
        "responseId": secrets.token_urlsafe(16),
    }


def ratings(results: Any) -> tuple[str, list[Json]]:
    """A content filter's results by category ({"hate": {"filtered": true, "severity": "high"}}) as (blockReason, ratings).

    Two categories that Gemini has as one become one rating, the worse.
    """
    found: dict[str, Json] = {}
    reason = "SAFETY"
    for name, result in results.items() if isinstance(results, dict) else ():
        category = _CATEGORIES.get(name)
        if category is None or not isinstance(result, dict):
            continue
        filtered = result.get("filtered") is True
        worst = "HIGH" if filtered or result.get("detected") is True else "NEGLIGIBLE"
        rating: Json = {
            "category": category,
            "probability": _PROBABILITIES.get(result.get("severity", ""), worst),
            **({"blocked": True} if filtered else {}),
        }
        if category == "HARM_CATEGORY_JAILBREAK" and filtered:
            reason = "JAILBREAK"
        if category not in found or rating.get("blocked", False) >= found[category].get("blocked", False):
            found[category] = rating
    return reason, list(found.values())
