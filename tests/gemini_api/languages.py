"""What the tests of the translators share: short ways to ask in Gemini and to hear a vendor."""

from __future__ import annotations

import json
from typing import Any

from gemini_api import wire
from gemini_api.translators import TRANSLATORS
from gemini_api.translators.base import Letter, Memo, Target
from routing.errors import UpstreamError, UpstreamRefusal
from routing.framing import Frame

Json = dict[str, Any]


def asked(text: str = "Hi", **more: Any) -> Json:
    """A Gemini request with one user turn, as translators get it."""
    return wire.normalise({"contents": [{"role": "user", "parts": [{"text": text}]}], **more})


def letter(language: str, model: str, body: Json, **target: Any) -> Letter:
    return TRANSLATORS[language].request(
        body, Target(**{"model": model, "scope": "scope", "tenant": "tenant"} | target)
    )


def functions(*names: str) -> list[Json]:
    return [{"functionDeclarations": [{"name": name, "description": name.upper()} for name in names]}]


def calling(mode: str, *allowed: str) -> Json:
    config: Json = {"mode": mode}
    if allowed:
        config["allowedFunctionNames"] = list(allowed)
    return {"functionCallingConfig": config}


def memo(**fields: Any) -> Memo:
    return Memo(**{"model": "model", "scope": "scope", "tenant": "tenant", "prompt_tokens": 7} | fields)


def events(*said: Json) -> list[Frame]:
    return [Frame(json.dumps(each).encode(), each.get("type", "")) for each in said]


def heard(language: str, frames: list[Frame], known: Memo | None = None) -> list[Json]:
    stream = TRANSLATORS[language].Stream(known or memo())
    chunks = [chunk for frame in frames for chunk in stream.feed(frame)]
    return chunks + stream.finish()


def refused(language: str, status: int, body: Any, headers: dict[str, str] | None = None) -> UpstreamError:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    meant = TRANSLATORS[language].error(UpstreamRefusal(status, headers or {}, text), memo())
    assert isinstance(meant, UpstreamError)
    return meant


def parts(chunk: Json) -> list[Json]:
    found: list[Json] = chunk["candidates"][0]["content"]["parts"]
    return found


def again(answer_parts: list[Json], tools: list[Json], **more: Any) -> Json:
    """The next request of a client that drops thoughts and answers every call, as gemini-cli does."""
    kept = [part for part in answer_parts if not part.get("thought")]
    answers = [
        {"functionResponse": {"id": call["id"], "name": call["name"], "response": {"output": "done"}}}
        for part in kept
        if (call := part.get("functionCall"))
    ]
    turns = [
        {"role": "user", "parts": [{"text": "Go."}]},
        {"role": "model", "parts": kept},
        {"role": "user", "parts": answers or [{"text": "And?"}]},
    ]
    return wire.normalise({"contents": turns, "tools": tools, **more})
