"""Vendors' refusals, read: whatever shape the body has, when to come back, and what must not be told.

A translator hands its vendor's own words (code -> kind) to `understood`; the rest is the same for all.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from gemini_api.translators.base import Json
from lib import json
from routing.errors import Kind, UpstreamError, UpstreamRefusal

P = ParamSpec("P")
T = TypeVar("T")

STATUS_KINDS: dict[int, Kind] = {
    400: "invalid", 401: "credential", 402: "billing", 403: "credential", 404: "not_found", 408: "timeout",
    409: "conflict", 413: "invalid", 422: "invalid", 424: "unavailable", 429: "rate_limited", 500: "server",
    502: "unavailable", 503: "unavailable", 504: "timeout", 529: "unavailable",
}  # fmt: skip
TOO_LONG = "The input token count exceeds the maximum number of tokens allowed."
_LONGEST_WAIT = 3600.0
_LONGEST_MESSAGE = 2000


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """An error body, read. code and type are the vendor's words, as text; status Google's word; "" where missing."""

    message: str = ""
    code: str = ""
    type: str = ""
    param: str = ""
    status: str = ""
    details: list[Json] = field(default_factory=list)
    raw: Json = field(default_factory=dict)


_NOTHING = ErrorBody()


def read(body: bytes) -> ErrorBody:
    """Any error body: an object, a list of one, {"error": ...} or flat, HTML, or nothing."""
    try:
        value = json.loads(body)
    except json.JSONDecodeError:
        return _NOTHING
    return read_value(value)


def read_value(value: Any) -> ErrorBody:
    """The same for JSON already parsed, such as an error event inside a stream."""
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, str):
        return ErrorBody(message=value)
    if not isinstance(value, dict):
        return _NOTHING
    error = value.get("error", value)
    if isinstance(error, str):  # {"error": "text"}, or {"error": "code", "message": "text"}
        return ErrorBody(message=_text(value.get("message")) or error, raw=value)
    if not isinstance(error, dict):
        return _NOTHING
    message = error.get("message") or error.get("Message") or error.get("detail") or error.get("msg")
    details = error.get("details")
    return ErrorBody(
        message=_text(message),
        code=_text(error.get("code")),
        type=_text(error.get("type") or error.get("__type")),
        param=_text(error.get("param")),
        status=_text(error.get("status")) if isinstance(error.get("status"), str) else "",
        details=[each for each in details if isinstance(each, dict)] if isinstance(details, list) else [],
        raw=error,
    )


def understood(
    refusal: UpstreamRefusal, body: ErrorBody, words: Mapping[str, Kind], *, request_id_header: str = "x-request-id"
) -> UpstreamError:
    """The refusal as an UpstreamError: the vendor's word decides, else the status. Messages are redacted."""
    return of_kind(
        kind_of(refusal.status, body, words),
        body,
        status=refusal.status,
        retry_after=retry_after(refusal.headers, body),
        request_id=refusal.headers.get(request_id_header, ""),
    )


def of_kind(
    kind: Kind,
    body: ErrorBody,
    *,
    status: int | None = None,
    retry_after: float | None = None,
    request_id: str = "",
    drop_field: str = "",
) -> UpstreamError:
    """An UpstreamError of a kind already known, for example from an error event inside a stream."""
    message = redact(body.message)
    if kind == "too_long":
        message = TOO_LONG
    return UpstreamError(
        kind=kind,
        message=message or (f"The upstream answered {status}." if status else "The upstream reported an error."),
        retry_after=retry_after if kind in ("rate_limited", "unavailable", "server") else None,
        provider_status=status,
        provider_code=redact(body.code or body.type)[:100],
        request_id=request_id[:100],
        drop_field=drop_field,
    )


def dispensable(named: str, table: Collection[str]) -> str:
    """The parameter that a refusal names, or the one it is a part of, if it is in `table`; else an empty string."""
    whole = named.partition(".")[0]
    return named if named in table else whole if whole in table else ""


def guarded(read: Callable[P, T]) -> Callable[P, T]:
    """For what reads a vendor's answer: whatever is not shaped as its language says is a protocol error.

    So another deployment may answer instead, and no stranger's JSON becomes an internal error of ours.
    """

    @wraps(read)
    def reading(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return read(*args, **kwargs)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as wrong:
            raise UpstreamError(
                "protocol", f"The answer is not shaped as expected ({type(wrong).__name__})."
            ) from wrong

    return reading


def kind_of(status: int, body: ErrorBody, words: Mapping[str, Kind]) -> Kind:
    """A vendor's word decides what a 4xx is; a 5xx is what its status says, whatever the word beside it."""
    if status >= 500:
        return kind_of_status(status)
    return words.get(body.code) or words.get(body.type) or kind_of_status(status)


def kind_of_status(status: int) -> Kind:
    return STATUS_KINDS.get(status) or ("unavailable" if status >= 500 else "invalid")


_BAD_KEY = ("API key not valid", "API key expired")


def is_bad_key(body: ErrorBody) -> bool:
    """Google's 400 for a wrong API key, with or without its details: the operator's credential, not the caller's request."""
    told = any(detail.get("reason") == "API_KEY_INVALID" for detail in body.details)
    return told or body.message.startswith(_BAD_KEY)


def is_about_signatures(body: ErrorBody) -> bool:
    """Gemini misses a thought signature, or cannot read one: a retry without them is fair."""
    words = body.message.lower()
    return "thought_signature" in words or "thought signature" in words or "thoughtsignature" in words


_ROOM = re.compile(
    r"(?i)maximum context length|context window|context_length|exceeds? (?:the )?(?:model'?s? )?context"
    r"|too many (?:input )?tokens|(?:prompt|input) is too long"
)


def is_about_room(message: str) -> bool:
    """The prompt does not fit the model, in the words of any vendor."""
    return _ROOM.search(message) is not None


# --- When to come back ------------------------------------------------------------------------------------------------

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_RESETS = ("x-ratelimit-reset-requests", "x-ratelimit-reset-tokens")
_DATED_RESETS = (
    "anthropic-ratelimit-requests-reset", "anthropic-ratelimit-tokens-reset",
    "anthropic-ratelimit-input-tokens-reset", "anthropic-ratelimit-output-tokens-reset",
)  # fmt: skip


def retry_after(headers: Mapping[str, str], body: ErrorBody = _NOTHING, now: float | None = None) -> float | None:
    """Seconds the vendor asks us to wait: the first source that says so, 0 < seconds <= 3600, else None."""
    now = time.time() if now is None else now
    for seconds in _sources(headers, body, now):
        if seconds is not None and seconds > 0:
            return min(seconds, _LONGEST_WAIT)
    return None


def _sources(headers: Mapping[str, str], body: ErrorBody, now: float) -> list[float | None]:
    milliseconds = _float(headers.get("retry-after-ms"))
    found = [
        milliseconds / 1000 if milliseconds is not None else None,
        _seconds_or_date(headers.get("retry-after"), now),
        _retry_info(body.details),
    ]
    # Only what is used up makes us wait: a bucket with something left says when it will be full again.
    for name in _RESETS:
        if headers.get(name.replace("reset", "remaining"), "0") == "0":
            found.append(duration(headers.get(name)))
    for name in _DATED_RESETS:
        if headers.get(name.replace("reset", "remaining"), "0") == "0":
            found.append(_date(headers.get(name), now))
    return found


def duration(text: str | None) -> float | None:
    """OpenAI's durations: 6m0s, 1.5s, 120ms; bare numbers are seconds."""
    if not text:
        return None
    parts = _DURATION.findall(text)
    return sum(float(amount) * _SECONDS[unit] for amount, unit in parts) if parts else _float(text)


def _seconds_or_date(text: str | None, now: float) -> float | None:
    if not text:
        return None
    seconds = _float(text)
    if seconds is not None:
        return seconds
    try:
        return parsedate_to_datetime(text).timestamp() - now
    except (ValueError, TypeError, OverflowError):
        return None


def _date(text: str | None, now: float) -> float | None:
    if not text:
        return None
    try:
        return datetime.fromisoformat(text).timestamp() - now
    except (ValueError, OverflowError):
        return None


def _retry_info(details: list[Json]) -> float | None:
    for detail in details:
        if _text(detail.get("@type")).endswith("RetryInfo"):
            return duration(_text(detail.get("retryDelay")))
    return None


def _float(text: str | None) -> float | None:
    try:
        value = float(text) if text else None
    except ValueError:
        return None
    return value if value is not None and value == value and abs(value) != float("inf") else None


# --- What must not be told --------------------------------------------------------------------------------------------

_SECRETS = (
    (re.compile(r"arn:aws[\w-]*:[^\s\"',]+"), "[arn]"),
    (re.compile(r"\b(?:sk|pk|rk)-[A-Za-z0-9_*-]{6,}"), "[key]"),
    (re.compile(r"\bAIza[0-9A-Za-z_-]{10,}"), "[key]"),
    (re.compile(r"\b(?:AKIA|ASIA|ABSK)[A-Z0-9a-z+/=]{8,}"), "[key]"),
    (re.compile(r"\bya29\.[\w.-]+|\beyJ[\w-]+\.[\w.-]+"), "[token]"),
    (re.compile(r"(?i)\b(bearer)\s+[\w.~+/=-]{6,}"), r"\1 [token]"),
    (re.compile(r"(?i)\b(api[-_ ]?key(?: provided)?\s*[:=])\s*[^\s,.;\"']+"), r"\1 [key]"),
    (re.compile(r"\b(?:org|proj)-[A-Za-z0-9]{6,}"), "[account]"),
    (re.compile(r"\bprojects?[/ :]+'?[\w.-]*\d{5,}'?"), "project [project]"),
    (re.compile(r"\bproject_number:\d+"), "project_number:[project]"),
    (re.compile(r"\bprojects/[\w.:-]+"), "projects/[project]"),
    (re.compile(r"\b\d{12}\b"), "[account]"),
    (re.compile(r"https?://[^\s\"'<>)]+"), "[address]"),
    (
        re.compile(
            r"\b(?:[a-z0-9-]{1,63}\.){1,8}(?:azure\.(?:com|us|cn)|amazonaws\.com(?:\.cn)?|amazonaws\.eu|api\.aws|"
            r"googleapis\.com|openai\.com|anthropic\.com|internal|local|svc)(?::\d+)?\b"
        ),
        "[host]",
    ),
    (re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?\b"), "[address]"),
)


def redact(text: str) -> str:
    """Without keys, tokens, hosts, addresses, account and project numbers: these are the operator's. At most 2,000
    characters come back, and only twice as many are looked at, so that a secret at the cut is never left in half."""
    text = text[: 2 * _LONGEST_MESSAGE]
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text[:_LONGEST_MESSAGE]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return json.dumps(value).decode() if isinstance(value, (list, dict)) and value else ""
    return str(value)
