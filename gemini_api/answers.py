"""What an answer tells the ledger while it passes: tokens, finish reason, and how much of it there was."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from gemini_api.translators.base import Json, Raw
from gemini_api.translators.errors import guarded
from gemini_api.translators.usage import CACHE_WRITE, ESTIMATED, listed, mapping, number
from lib import json
from usage.event import Tokens

# Ends after which another deployment would hardly say more: the content was refused, or the output cap was reached.
MEANT: frozenset[str] = frozenset(
    {"SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY", "MAX_TOKENS"}
)
MEDIA = 5160  # bytes of text that cost about what a picture costs (1,290 tokens)


@dataclass(slots=True)
class Reading:
    """What was read so far. last: payloads that leave after the call was recorded."""

    tokens: Tokens | None = None
    counted: bool = True  # whether the last chunk told usage: then `tokens` covers all of it
    estimated: bool = False  # the upstream told no usage: a translator counted
    finish_reason: str = ""
    size: int = 0  # UTF-8 bytes of text, thoughts and calls, and MEDIA for each picture
    continuation: str = ""  # the token that a following request goes on with
    last: list[bytes] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Nothing was said, and nobody meant that."""
        return not self.size and self.finish_reason not in MEANT and not self.finish_reason.startswith("BLOCKED_")


@dataclass(slots=True)
class Answer:
    """A whole answer as it will leave: JSON bytes."""

    payload: bytes
    reading: Reading


@guarded
def read(chunk: Json, reading: Reading) -> int:
    """Note usage and finish reason of a chunk; returns how much was said in it, as `Reading.size`.

    Raises UpstreamError for a chunk that came as it is, and is not shaped like Gemini's.
    """
    usage = chunk.get("usageMetadata")
    reading.counted = False
    if usage and isinstance(usage, dict):
        reading.counted = True
        reading.tokens = tokens(usage)
        reading.estimated = ESTIMATED in usage
    size = 0
    for candidate in chunk.get("candidates", ()):
        if reason := candidate.get("finishReason"):
            reading.finish_reason = reason
            if reason == "CONTINUATION":
                reading.continuation = str(chunk.get("continuationToken") or "")
        for part in candidate.get("content", {}).get("parts", ()):
            if text := part.get("text"):
                size += len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
            elif call := part.get("functionCall"):
                size += len(json.dumps(call))
            elif "inlineData" in part:
                size += MEDIA
    reading.size += size
    if not reading.finish_reason and (blocked := chunk.get("promptFeedback", {}).get("blockReason")):
        reading.finish_reason = f"BLOCKED_{blocked}"
    return size


def payload(chunk: Json) -> bytes:
    """A chunk as one line of JSON, without what is only ours; the upstream's own bytes where they may leave as they are."""
    if isinstance(chunk, Raw):
        return chunk.data
    usage = chunk.get("usageMetadata")
    if isinstance(usage, dict) and (CACHE_WRITE in usage or ESTIMATED in usage):
        chunk = {**chunk, "usageMetadata": {name: value for name, value in usage.items() if name[0] != "_"}}
    return json.dumps_line(chunk)


def tokens(usage: Json) -> Tokens:
    """Gemini's usageMetadata as the ledger counts. Nonsense (negative, not a number) counts as nothing."""
    by_modality = {}
    for name in ("promptTokensDetails", "candidatesTokensDetails"):
        if name in usage:
            for each in map(mapping, listed(usage[name])):
                by_modality[name, str(each.get("modality"))] = whole(each.get("tokenCount"))
    return Tokens(
        prompt=whole(usage.get("promptTokenCount")),
        cached=whole(usage.get("cachedContentTokenCount")),
        cache_write=whole(usage.get(CACHE_WRITE)),
        tool_use=whole(usage.get("toolUsePromptTokenCount")),
        candidates=whole(usage.get("candidatesTokenCount")),
        thoughts=whole(usage.get("thoughtsTokenCount")),
        audio_prompt=by_modality.get(("promptTokensDetails", "AUDIO"), 0),
        image_prompt=by_modality.get(("promptTokensDetails", "IMAGE"), 0),
        audio_output=by_modality.get(("candidatesTokensDetails", "AUDIO"), 0),
        image_output=by_modality.get(("candidatesTokensDetails", "IMAGE"), 0),
    )


def asked(usage: Json) -> Tokens:
    """What the prompt cost, by a usageMetadata that comes before the answer is whole."""
    return replace(tokens(usage), candidates=0, thoughts=0, audio_output=0, image_output=0)


def whole(value: Any) -> int:
    if value is None:
        return 0
    found = number(value)
    return found if found < 10**12 else 0
