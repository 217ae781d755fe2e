"""Vendors' token counts as Gemini's usageMetadata.

Two private keys travel inside until the door takes them out with `take_private`:
    _cacheWriteTokens   tokens written to the vendor's cache: priced, but Gemini has no field for them
    _estimated          nobody counted: the figures are ours, from the text
"""

from __future__ import annotations

from typing import Any

from gemini_api.translators.base import Json

CACHE_WRITE = "_cacheWriteTokens"
ESTIMATED = "_estimated"
CACHED = ("prompt_cache_hit_tokens", "cached_tokens")  # where servers that imitate OpenAI count what their cache gave
_CHARACTERS_PER_TOKEN = 4


def metadata(
    *,
    prompt: int,
    output: int,
    cached: int = 0,
    thoughts: int = 0,
    cache_write: int = 0,
    audio_prompt: int = 0,
    image_prompt: int = 0,
    audio_output: int = 0,
) -> Json:
    """usageMetadata. prompt includes cached and written ones; output excludes thoughts. Zero counters are left out."""
    found: Json = {}
    if prompt:
        found["promptTokenCount"] = prompt
    if cached:
        found["cachedContentTokenCount"] = cached
    if output:
        found["candidatesTokenCount"] = output
    if thoughts:
        found["thoughtsTokenCount"] = thoughts
    found["totalTokenCount"] = prompt + output + thoughts
    if prompt:
        found["promptTokensDetails"] = _details(prompt, AUDIO=audio_prompt, IMAGE=image_prompt)
    if audio_output:
        found["candidatesTokensDetails"] = _details(output, AUDIO=audio_output)
    if cache_write:
        found[CACHE_WRITE] = cache_write
    return found


def openai(counted: Json, *, prompt_key: str = "prompt_tokens", output_key: str = "completion_tokens") -> Json:
    """Chat Completions' counts; with input_tokens and output_tokens as keys, those of Responses.

    Servers that imitate OpenAI may report reasoning beside the completion instead of inside it, or only as what the
    total has left over.
    """
    counted = mapping(counted)
    prompt, output = number(counted.get(prompt_key)), number(counted.get(output_key))
    asked, said = mapping(counted.get(f"{prompt_key}_details")), mapping(counted.get(f"{output_key}_details"))
    thoughts = number(said.get("reasoning_tokens"))
    beside = number(counted.get("total_tokens")) - prompt - output
    if thoughts > output:
        visible = output
    elif beside > 0:
        visible, thoughts = output, max(thoughts, beside)
    else:
        visible = output - thoughts
    return metadata(
        prompt=prompt,
        output=visible,
        thoughts=thoughts,
        cached=next(
            filter(None, (number(asked.get("cached_tokens")), *(number(counted.get(name)) for name in CACHED))), 0
        ),
        cache_write=number(asked.get("cache_write_tokens")),
        audio_prompt=number(asked.get("audio_tokens")),
        image_prompt=number(asked.get("image_tokens")),
        audio_output=number(said.get("audio_tokens")),
    )


def anthropic(counted: Json) -> Json:
    """Anthropic's counts, whose input excludes what the cache gave or took."""
    counted = mapping(counted)
    read, written = number(counted.get("cache_read_input_tokens")), number(counted.get("cache_creation_input_tokens"))
    output = number(counted.get("output_tokens"))
    thoughts = min(output, number(mapping(counted.get("output_tokens_details")).get("thinking_tokens")))
    return metadata(
        prompt=number(counted.get("input_tokens")) + read + written,
        output=output - thoughts,
        thoughts=thoughts,
        cached=read,
        cache_write=written,
    )


def converse(counted: Json) -> Json:
    """Converse's counts: as Anthropic's, in camelCase."""
    counted = mapping(counted)
    read, written = number(counted.get("cacheReadInputTokens")), number(counted.get("cacheWriteInputTokens"))
    return metadata(
        prompt=number(counted.get("inputTokens")) + read + written,
        output=number(counted.get("outputTokens")),
        cached=read,
        cache_write=written,
    )


def estimated(prompt_tokens: int, characters: int) -> Json:
    """When nobody counted: the prompt as we estimated it, the answer by its length."""
    output = -(-characters // _CHARACTERS_PER_TOKEN)
    return {**metadata(prompt=prompt_tokens, output=output), ESTIMATED: True}


def take_private(usage: Json) -> tuple[int, bool]:
    """Remove the private keys in place. Returns (cache-write tokens, whether the counts are estimated)."""
    return usage.pop(CACHE_WRITE, 0), usage.pop(ESTIMATED, False)


def mapping(value: Any) -> Json:
    """A JSON object from a stranger; what is none tells nothing."""
    return value if isinstance(value, dict) else {}


def listed(value: Any) -> list[Any]:
    """The same for a JSON array."""
    return value if isinstance(value, list) else []


def number(value: Any) -> int:
    """A count from a stranger, or digits in a string (as protocol buffers write large ones): all else is 0."""
    if type(value) is int:
        return value if value > 0 else 0
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() and len(value) < 16 else 0
    return int(value) if isinstance(value, float) and 0 < value < 2**53 else 0


def _details(total: int, **parts: int) -> list[Json]:
    text = max(0, total - sum(parts.values()))
    found = [{"modality": "TEXT", "tokenCount": text}] if text else []
    return found + [{"modality": name, "tokenCount": count} for name, count in parts.items() if count]
