"""How many tokens a request is: tiktoken's o200k_base, with a vocabulary that lies in the tree.

It is an estimate for every vendor but one, used for countTokens, for what limits hold before a call, and where
an upstream reported no usage. Every class of content counts, so that nothing is free.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import lzma
import math
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import tiktoken

from gemini_api import images
from lib import json

Json = dict[str, Any]
VOCABULARY = Path(__file__).parent / "data" / "o200k_base.tiktoken.xz"
SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
# tiktoken's own pattern of o200k_base; the special tokens are left out, because here they are ordinary text.
PATTERN = "|".join(
    [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)
PIECE = 10_000  # characters
ASIDE = 64_000  # bytes of a body from which on counting leaves the event loop
SHORT = 8_000  # bytes of a body that holds no media worth looking for

OVERHEAD, TURN, CALL, TOOL, TOOLS, FORCED, SCHEMA = 3, 3, 3, 8, 12, 4, 10
WORDS = frozenset({"TEXT", "DOCUMENT"})  # modalities that a tokenizer counts
IMAGE_OF_UNKNOWN_SIZE, UNKNOWN_FILE, TILE = 1000, 258, 258


@cache
def encoding() -> tiktoken.Encoding:
    """Loaded once per process (a third of a second): see `warm_up`."""
    data = lzma.decompress(VOCABULARY.read_bytes())
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise RuntimeError(f"{VOCABULARY} is not the vocabulary this release was made with.")
    tokens = data.split()[::2]  # a line each: base64 and its rank, which counts on from nought
    ranks = {binascii.a2b_base64(token): rank for rank, token in enumerate(tokens)}
    return tiktoken.Encoding("o200k_base", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})


async def warm_up() -> None:
    await asyncio.to_thread(encoding)


def count(text: str) -> int:
    """Tokens of a text. Special tokens typed by a user are text like any other; never raises.

    Long texts are counted in pieces (one token more or less a piece), because the pattern's engine panics on an
    enormous run of one class of character.
    """
    if len(text) <= PIECE:
        return len(encoding().encode_ordinary(text)) if text else 0
    return sum(len(encoding().encode_ordinary(text[at : at + PIECE])) for at in range(0, len(text), PIECE))


def guess(size: int) -> int:
    """Tokens of so many bytes of text, when counting would be too dear: four bytes each."""
    return math.ceil(size / 4)


def guess_request(body: Json, size: int) -> int:
    """Tokens of a request of `size` bytes that nobody counts: the rest as text, media as `estimate` has them, because
    their base64 is a hundred times as long as what they cost."""
    if size < SHORT:
        return guess(size)
    inside = found = 0
    for mime, data in _blobs(body):
        inside += len(data)
        found += _roughly(mime, data)
    return guess(max(size - inside, 0)) + found


def _blobs(body: Json) -> Iterator[tuple[str, str]]:
    """(type, base64) of the media in a request as its client wrote it: in either spelling, right or wrong."""
    contents = body.get("contents")
    for content in contents if isinstance(contents, list) else [contents]:
        parts = content.get("parts") if isinstance(content, dict) else None
        for part in parts if isinstance(parts, list) else [parts]:
            blob = (part.get("inlineData") or part.get("inline_data")) if isinstance(part, dict) else None
            if isinstance(blob, dict):
                mime, data = blob.get("mimeType") or blob.get("mime_type"), blob.get("data")
                if isinstance(mime, str) and isinstance(data, str):
                    yield mime.lower(), data


def _roughly(mime: str, data: str) -> int:
    """As `_inline`, without reading documents."""
    if mime.startswith(("image/", "audio/", "video/")):
        return _inline(mime, data)[1]
    size = len(data) * 3 // 4
    return TILE * math.ceil(size / 50_000) if mime == "application/pdf" else guess(size)


async def estimate_aside(body: Json, size: int, factor: float = 1.0) -> dict[str, int]:
    """`estimate`, in a thread when the body is large (`size`: its bytes), with words counted as `scaled` says."""
    if size < ASIDE:
        return scaled(estimate(body), factor)
    return scaled(await asyncio.to_thread(estimate, body), factor)


def scaled(by_modality: dict[str, int], factor: float) -> dict[str, int]:
    """Tokens of o200k_base as those of a model whose tokenizer makes `factor` times as many of words."""
    if factor == 1.0:
        return by_modality
    return {name: math.ceil(count * factor) if name in WORDS else count for name, count in by_modality.items()}


def estimate(body: Json) -> dict[str, int]:
    """Tokens by modality (TEXT, IMAGE, AUDIO, VIDEO, DOCUMENT) of a normalised request."""
    found = {"TEXT": OVERHEAD}
    for modality, tokens in _items(body):
        found[modality] = found.get(modality, 0) + tokens
    return found


def _items(body: Json) -> Iterator[tuple[str, int]]:
    if system := body.get("systemInstruction"):
        yield from _content(system)
    for content in body.get("contents", ()):
        yield from _content(content)
    declarations = [each for tool in body.get("tools", ()) for each in tool.get("functionDeclarations", ())]
    if declarations:
        yield "TEXT", TOOLS
    for declaration in declarations:
        schema = declaration.get("parametersJsonSchema") or declaration.get("parameters") or {}
        words = count(declaration.get("name", "")) + count(declaration.get("description", ""))
        yield "TEXT", TOOL + words + math.ceil(_json(schema) * 0.9)
    if body.get("toolConfig", {}).get("functionCallingConfig", {}).get("mode") == "ANY":
        yield "TEXT", FORCED
    config = body.get("generationConfig", {})
    if schema := config.get("responseJsonSchema") or config.get("responseSchema"):
        yield "TEXT", _json(schema) + SCHEMA


def _content(content: Json) -> Iterator[tuple[str, int]]:
    yield "TEXT", TURN
    for part in content.get("parts", ()):
        yield from _part(part)


def _part(part: Json) -> Iterator[tuple[str, int]]:
    match part:
        case {"thought": True}:
            return  # never sent
        case {"text": str(text)}:
            yield "TEXT", count(text)
        case {"functionCall": dict(call)}:
            yield "TEXT", count(call.get("name", "")) + _json(call.get("args", {})) + CALL
        case {"functionResponse": dict(answer)}:
            yield "TEXT", count(answer.get("name", "")) + _json(answer.get("response", {})) + CALL
            for inner in answer.get("parts", ()):
                yield from _part(inner)
        case {"inlineData": {"mimeType": str(mime), "data": str(data)}}:
            yield _inline(mime.lower(), data)
        case {"fileData": dict()}:
            yield "DOCUMENT", UNKNOWN_FILE
        case {"executableCode": {"code": str(code)}}:
            yield "TEXT", count(code)
        case {"codeExecutionResult": dict(result)}:
            yield "TEXT", count(str(result.get("output", "")))


def _inline(mime: str, data: str) -> tuple[str, int]:
    size = len(data) * 3 // 4
    if mime.startswith("image/"):
        return "IMAGE", _image(data)
    if mime.startswith("audio/"):
        per_second = 16_000 if "wav" in mime else 4_000
        return "AUDIO", max(1, math.ceil(size / per_second * 32))
    if mime.startswith("video/"):
        return "VIDEO", max(1, math.ceil(size / 250_000 * 263))
    raw = _bytes(data)
    if mime == "application/pdf":
        pages = (
            raw.count(b"/Type /Page")
            + raw.count(b"/Type/Page")
            - raw.count(b"/Type /Pages")
            - raw.count(b"/Type/Pages")
        )
        return "DOCUMENT", TILE * max(1, pages if pages > 0 else math.ceil(size / 50_000))
    try:
        return "DOCUMENT", count(raw.decode())
    except UnicodeDecodeError:
        return "DOCUMENT", guess(size)


def _image(data: str) -> int:
    """258 tokens a tile of 768 pixels, one tile for small pictures: Gemini 2.5's way."""
    found = images.size(_bytes(data[:65_536]))
    if found is None:
        return IMAGE_OF_UNKNOWN_SIZE
    width, height = found
    if width <= 384 and height <= 384:
        return TILE
    return TILE * math.ceil(width / 768) * math.ceil(height / 768)


def _bytes(data: str) -> bytes:
    try:
        return base64.b64decode(data + "=" * (-len(data) % 4))
    except (binascii.Error, ValueError):
        return b""


def _json(value: Any) -> int:
    return count(json.dumps(value).decode()) if value else 1
