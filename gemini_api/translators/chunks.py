"""Builds a Gemini answer from what a vendor says piece by piece: one code for streams and for unary answers.

A translator tells it events (`text`, `thought`, `opaque`, `call`, `finish`, ...). A stream takes what may leave
after each frame with `take`, and the last chunk with `end`; a unary answer is the same events and then `whole`.

What clients need, and this keeps:
    every chunk has non-empty parts, response id and model version
    function calls are complete, and leave in the last chunk, with finishReason and usage
    a signature rides on the first part that follows the reasoning (clients merge later ones away)
"""

from __future__ import annotations

import secrets
from typing import Any

from gemini_api import signatures
from gemini_api.translators import usage as counts
from gemini_api.translators.base import Json, Memo
from lib import json
from routing.errors import UpstreamError

_MALFORMED = "MALFORMED_FUNCTION_CALL"


class Answer:
    """One answer in the making; `Answer.candidate(i)` for each candidate, and candidate 0 by plain methods.

    family: whose opaque blocks these are (the envelope's "p"). `response_id` and `model_version` are set when known.
    `stopped`: a stop sequence was found here: nothing more is needed from the upstream.
    """

    __slots__ = ("_candidates", "_family", "_first", "_memo", "_taken", "_usage", "model_version", "response_id")

    def __init__(self, memo: Memo, family: str = "") -> None:
        self._memo = memo
        self._family = family
        self._first = Candidate(memo, family, 0)
        self._candidates = [self._first]
        self._usage: Json | None = None
        self._taken = False
        self.response_id = memo.response_id
        self.model_version = memo.model

    def candidate(self, index: int) -> Candidate:
        """The candidate of that index; made when first asked for. Indexes beyond 63 raise ValueError."""
        if index == 0:
            return self._first
        if not 0 < index < 64:
            raise ValueError(f"There is no candidate {index}.")
        while len(self._candidates) <= index:
            self._candidates.append(Candidate(self._memo, self._family, len(self._candidates)))
        return self._candidates[index]

    @property
    def candidates(self) -> list[Candidate]:
        return self._candidates

    # Candidate 0, for vendors that only have one.

    def text(self, text: str) -> None:
        self._first.text(text)

    def thought(self, text: str) -> None:
        self._first.thought(text)

    def opaque(self, block: Json) -> None:
        self._first.opaque(block)

    def call(self, id: str, name: str, arguments: Any) -> None:
        self._first.call(id, name, arguments)

    def media(self, mime: str, data: str) -> None:
        self._first.media(mime, data)

    def finish(self, reason: str, message: str = "") -> None:
        self._first.finish(reason, message)

    @property
    def finished(self) -> bool:
        """Whether every candidate has its finish reason."""
        return all(each.reason for each in self._candidates)

    @property
    def started(self) -> bool:
        """Whether anything was said at all."""
        return self._taken or any(each.said for each in self._candidates)

    @property
    def stopped(self) -> bool:
        return self._first.stopped and all(each.stopped for each in self._candidates)

    def usage(self, found: Json) -> None:
        """The vendor's count as usageMetadata (see `usage`); the last one wins."""
        self._usage = found

    def take(self) -> list[Json]:
        """The chunks that may leave now, one per candidate that has something to say."""
        if len(self._candidates) == 1:
            parts = self._first.take()
            if not parts:
                return []
            self._taken = True
            return [self._chunk({"content": {"role": "model", "parts": parts}, "index": 0})]
        out = []
        for each in self._candidates:
            if parts := each.take():
                out.append(self._chunk({"content": {"role": "model", "parts": parts}, "index": each.index}))
        self._taken = self._taken or bool(out)
        return out

    def end(self) -> list[Json]:
        """The last chunks: what is left of each candidate with its finish reason; usage in the very last one."""
        out = [self._chunk(each.end(whole=not self._taken)) for each in self._candidates]
        out[-1]["usageMetadata"] = self._counted()
        return _in_order(out)

    def whole(self) -> Json:
        """The unary answer: every candidate in one object."""
        answer = self._chunk(*(each.end(whole=True) for each in self._candidates))
        answer["usageMetadata"] = self._counted()
        return _in_order([answer])[0]

    def _chunk(self, *candidates: Json) -> Json:
        chunk: Json = {"candidates": list(candidates)}
        if self.model_version:
            chunk["modelVersion"] = self.model_version
        if not self.response_id:
            self.response_id = secrets.token_urlsafe(16)
        chunk["responseId"] = self.response_id
        return chunk

    def _counted(self) -> Json:
        if self._usage is not None and self._usage["totalTokenCount"]:  # nobody answers a prompt of no tokens
            return self._usage
        return counts.estimated(self._memo.prompt_tokens, sum(each.length for each in self._candidates))


class Candidate:
    """One candidate: the parts that wait to leave, the calls that wait for the end, the reason when it is known."""

    __slots__ = (
        "_calls",
        "_family",
        "_ids",
        "_logprobs",
        "_malformed",
        "_memo",
        "_message",
        "_parts",
        "_pending",
        "_scanner",
        "_seal_model",
        "_wrapped",
        "extra",
        "index",
        "length",
        "reason",
        "said",
        "stopped",
    )  # fmt: skip

    def __init__(self, memo: Memo, family: str, index: int) -> None:
        self._memo = memo
        self._family = family
        self._seal_model = memo.model
        self._parts: list[Json] = []
        self._calls: list[Json] = []
        self._ids: set[str] = set()
        self._pending: list[Json] = []
        self._logprobs: list[Json] = []
        self._malformed = ""
        self._message = ""
        self._scanner = StopScanner(memo.stops) if memo.stops else None
        self._wrapped: list[str] | None = [] if memo.wrapped else None
        self.extra: Json = {}  # further fields of the candidate (safetyRatings, groundingMetadata)
        self.index = index
        self.length = 0  # characters of text, thoughts and arguments: for an estimate when nobody counts
        self.reason = ""
        self.said = False
        self.stopped = False

    def text(self, text: str) -> None:
        """Visible text. Stop sequences are found here when the vendor cannot; a wrapped answer waits for its end."""
        if self.stopped or not (text or self._pending):
            return
        if type(text) is not str:
            raise _not_text()
        self.length += len(text)
        if self._wrapped is not None:
            self._wrapped.append(text)
            self.said = True
            return
        if self._scanner is not None:
            text = self._scanner.feed(text)
            if self._scanner.found:
                self.stopped = True
                self.finish("STOP")
        if text or (self._pending and self._scanner is None):
            self._say(text)

    def thought(self, text: str) -> None:
        """A thought summary: only for clients that asked for it."""
        if type(text) is not str:
            raise _not_text()
        self.length += len(text)
        if self._memo.thoughts and text and not self.stopped:
            self.said = True
            parts = self._parts
            if parts and parts[-1].get("thought") and "text" in parts[-1]:
                parts[-1]["text"] += text
            else:
                parts.append({"text": text, "thought": True})

    def opaque(self, block: Json) -> None:
        """A finished block of the vendor's reasoning: sealed into the signature of the part that follows."""
        self._pending.append(block)

    def call(self, id: str, name: str, arguments: Any, *, signature: str = "") -> None:
        """A complete function call. arguments: JSON text or an object. signature: one that needs no envelope."""
        if self.stopped:
            return
        if type(id) is not str or type(name) is not str:
            raise _not_text()
        self.said = True
        try:
            args = arguments_of(arguments)
        except ValueError as problem:
            self._malformed = self._malformed or f"Malformed function call: {name} ({problem})"
            return
        self._flush_scanner()
        if isinstance(arguments, str):
            self.length += len(arguments)
        if not id or id in self._ids:
            id = f"call_{secrets.token_hex(12)}"
        self._ids.add(id)
        part: Json = {"functionCall": {"id": id, "name": self._memo.names.get(name, name), "args": args}}
        if signature:
            part["thoughtSignature"] = signature
        self._sign(part)
        self._calls.append(part)

    def media(self, mime: str, data: str) -> None:
        """A picture or sound the model made: base64, standard alphabet."""
        part: Json = {"inlineData": {"mimeType": mime, "data": data}}
        self._sign(part)
        self._parts.append(part)
        self.said = True

    def logprobs(self, tokens: list[Json]) -> None:
        """OpenAI's token log probabilities: [{token, logprob, top_logprobs}]."""
        self._logprobs.extend(tokens)

    def finish(self, reason: str, message: str = "") -> None:
        """The finish reason; the first one counts, and it only leaves with the last chunk."""
        if not self.reason:
            self.reason, self._message = reason, message

    def take(self) -> list[Json]:
        parts, self._parts = self._parts, []
        return parts

    def end(self, *, whole: bool) -> Json:
        """The candidate's last (or only) piece. whole: nothing has left yet, so the text can still be put right."""
        self._flush_scanner()
        if self._wrapped is not None:
            self._unwrap("".join(self._wrapped), whole)
        elif whole and self._memo.json_fallback:
            self._unfence()
        parts = self._parts + self._calls
        if self._pending:
            tail: Json = {"text": ""}
            self._sign(tail)
            parts.append(tail)
        reason, message = self.reason or "OTHER", self._message
        if self._malformed and reason != "MAX_TOKENS":  # at the limit a call is simply cut off
            reason, message = _MALFORMED, self._malformed
        out: Json = {"content": {"role": "model", "parts": parts or [{"text": ""}]}, "finishReason": reason}
        if message:
            out["finishMessage"] = message
        out["index"] = self.index
        if self._logprobs:
            out |= _logprobs_result(self._logprobs)
        out |= self.extra
        self._parts, self._calls = [], []
        return out

    def _say(self, text: str) -> None:
        self.said = True
        parts = self._parts
        if not self._pending and parts and "text" in parts[-1] and "thought" not in parts[-1]:
            parts[-1]["text"] += text
            return
        part: Json = {"text": text}
        if self._pending:
            self._sign(part)
        parts.append(part)

    def _sign(self, part: Json) -> None:
        """Seal the blocks that wait, if any, into this part."""
        if not self._pending or "thoughtSignature" in part:
            return
        memo = self._memo
        part["thoughtSignature"] = signatures.seal(
            self._pending, family=self._family, scope=memo.scope, model=self._seal_model, tenant=memo.tenant
        )
        self._pending = []

    def _flush_scanner(self) -> None:
        """What the scanner held back was no stop sequence after all."""
        if self._scanner is not None and (rest := self._scanner.flush()):
            self._say(rest)

    def _unwrap(self, text: str, whole: bool) -> None:
        """{"value": ...} -> the value as the client wanted it; a text that does not parse (cut short) stays."""
        self._wrapped = None
        if whole and self._memo.json_fallback:
            text = without_fence(text)
        try:
            value = json.loads(text)["value"]
        except (ValueError, KeyError, TypeError):
            pass
        else:
            bare = self._memo.wrapped == "enum" and isinstance(value, str)
            text = value if bare else json.dumps(value).decode()
        if text:
            self._say(text)

    def _unfence(self) -> None:
        texts = [part for part in self._parts if "text" in part and "thought" not in part]
        if len(texts) == 1:
            texts[0]["text"] = without_fence(texts[0]["text"])


def _not_text() -> UpstreamError:
    """Strangers' JSON: what should be text can be anything, and no client shall hear it as text."""
    return UpstreamError("protocol", "The answer has something else where text should be.")


class StopScanner:
    """Finds stop sequences in text that comes in pieces; holds back only what may still become one."""

    __slots__ = ("_held", "_stops", "found")

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """The text that may be shown now. After a match: what stood before it, and from then on nothing."""
        if self.found:
            return ""
        text = self._held + text
        first = min((place for stop in self._stops if (place := text.find(stop)) >= 0), default=-1)
        if first >= 0:
            self.found, self._held = True, ""
            return text[:first]
        keep = max((self._overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def flush(self) -> str:
        """What is still held back, and no longer can become a stop sequence."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """Length of the longest end of `text` that is a proper beginning of `stop`."""
        at = text.find(stop[0], max(0, len(text) - len(stop) + 1))
        while at >= 0:
            if stop.startswith(text[at:]):
                return len(text) - at
            at = text.find(stop[0], at + 1)
        return 0


def arguments_of(given: Any) -> Json:
    """A call's arguments as an object.

    "" and null are {}; a JSON string that holds an object (small models) is parsed once more. Anything else raises
    ValueError with a reason fit for the client.
    """
    if given is None or given == "":
        return {}
    if isinstance(given, dict):
        return given
    value = given
    for _ in range(2):
        if not isinstance(value, str):
            break
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise ValueError("the arguments are not valid JSON") from None
        if value is None or value == "":
            return {}
    if not isinstance(value, dict):
        raise ValueError("the arguments are not a JSON object")
    return value


def without_fence(text: str) -> str:
    """Without one surrounding code fence (```json ... ```), if there is one."""
    stripped = text.strip()
    if not (stripped.startswith("```") and stripped.endswith("```") and len(stripped) > 6):
        return text
    _, newline, inside = stripped[:-3].partition("\n")
    return inside.strip() if newline else text


def _logprobs_result(tokens: list[Json]) -> Json:
    chosen = [{"token": each.get("token", ""), "logProbability": each.get("logprob") or 0.0} for each in tokens]
    tops = [
        {
            "candidates": [
                {"token": top.get("token", ""), "logProbability": top.get("logprob") or 0.0}
                for top in each.get("top_logprobs") or ()
            ]
        }
        for each in tokens
    ]
    total = sum(each["logProbability"] for each in chosen)
    result: Json = {"chosenCandidates": chosen, "logProbabilitySum": total}
    if any(each["candidates"] for each in tops):
        result["topCandidates"] = tops
    return {"avgLogprobs": total / len(chosen), "logprobsResult": result}


def _in_order(chunks: list[Json]) -> list[Json]:
    """Google's order of fields in the last chunk: usageMetadata before modelVersion and responseId."""
    last = chunks[-1]
    for name in ("modelVersion", "responseId"):
        if name in last:
            last[name] = last.pop(name)
    return chunks
