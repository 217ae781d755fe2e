"""A prompt that a vendor's filter refused: in Gemini's API that is an answer (200) with promptFeedback, not an error."""

from __future__ import annotations

from typing import Any

from gemini_api.translators.base import Json, Memo

# Said in an answer's place when the vendor's filter left nothing: gemini-cli takes an answer without text for a broken
# one, and asks (and pays) three more times.
DECLINED = "The model declined to answer."
# OpenAI's and Azure's words for it.
CODES = frozenset({"content_filter", "content_policy_violation", "ResponsibleAIPolicyViolation"})
# Azure's filters and severities, as Gemini's.
_CATEGORIES = {
    "hate": "HARM_CATEGORY_HATE_SPEECH",
    "sexual": "HARM_CATEGORY_SEXUALLY_EXPLICIT",
    "violence": "HARM_CATEGORY_DANGEROUS_CONTENT",
    "self_harm": "HARM_CATEGORY_DANGEROUS_CONTENT",
    "jailbreak": "HARM_CATEGORY_JAILBREAK",
}
_PROBABILITIES = {"safe": "NEGLIGIBLE", "low": "LOW", "medium": "MEDIUM", "high": "HIGH"}
_RANK = {name: rank for rank, name in enumerate(_PROBABILITIES.values())}


def prompt(memo: Memo, filtered: Any = None, *, reason: str = "SAFETY", counted: Json | None = None) -> Json:
    """The answer to a blocked prompt. filtered: Azure's content_filter_result, if there was one. reason: one of
    Gemini's BlockReason. counted: usageMetadata, where the vendor counted."""
    ratings = safety_ratings(filtered)
    jailbreak = any(each["category"].endswith("JAILBREAK") and each.get("blocked") for each in ratings)
    feedback: Json = {"blockReason": "JAILBREAK" if jailbreak else reason}
    if ratings:
        feedback["safetyRatings"] = ratings
    answer: Json = {"promptFeedback": feedback}
    if counted:
        answer["usageMetadata"] = counted
    elif memo.prompt_tokens:
        answer["usageMetadata"] = {"promptTokenCount": memo.prompt_tokens, "totalTokenCount": memo.prompt_tokens}
    if memo.model:
        answer["modelVersion"] = memo.model
    return answer


def safety_ratings(filtered: Any) -> list[Json]:
    """Azure's filter results as safety ratings, one per category, the worse of two."""
    found: dict[str, Json] = {}
    for name, result in filtered.items() if isinstance(filtered, dict) else ():
        category = _CATEGORIES.get(name)
        if category is None or not isinstance(result, dict):
            continue
        blocked = result.get("filtered") is True
        probability = _PROBABILITIES.get(result.get("severity", ""), "HIGH" if result.get("detected") else "NEGLIGIBLE")
        rating: Json = {"category": category, "probability": probability}
        if blocked:
            rating["blocked"] = True
        before = found.get(category)
        if before is None or (blocked, _RANK[probability]) > (
            before.get("blocked", False),
            _RANK[before["probability"]],
        ):
            found[category] = rating
    return list(found.values())
