"""Call: what the door read of one API call, before anybody looked into its body."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import unquote

from django.http import HttpRequest

from gemini_api.errors import GeminiError
from gemini_api.told import caller_refused
from keys.context import KeyContext
from keys.middleware import KeyedRequest
from lib import metrics


@dataclass(slots=True)  # not frozen: that makes one for each call three times as dear
class Call:
    """One call of a known key. deadline and started are monotonic seconds; requested is the name as the client wrote it."""

    key: KeyContext
    action: str
    requested: str
    body: bytes
    body_error: GeminiError | None
    stream: bool = False
    sse: bool = False
    address: str = ""
    client: str = ""
    label: str = ""
    version: str = "v1beta"
    deadline: float | None = None
    started: float = field(default_factory=time.monotonic)
    playground: bool = False
    extra: dict[str, Any] = field(default_factory=dict)


def read_call(given: HttpRequest, action: str, model: str = "", *, stream: bool = False) -> Call:
    """The call behind a request. Raises what the caller is told when there is no key to speak for it."""
    request = cast(KeyedRequest, given)
    caller = request.caller
    if caller.context is None:
        metrics.REFUSED.labels(caller.problem).inc()
        raise caller_refused(caller)
    headers = request.headers
    return Call(
        key=caller.context,
        action=action,
        requested=model_name(model),
        body=request.body,
        body_error=scope_of(request).get("gatehouse.body_error"),
        stream=stream,
        sse=stream and "alt=sse" in request.META["QUERY_STRING"],
        address=caller.address,
        client=headers.get("user-agent", "")[:200],
        label=headers.get("x-gatehouse-user", "")[:100],
        version=request.path.split("/", 2)[1],
        deadline=client_deadline(headers.get("x-server-timeout", "")),
    )


def scope_of(request: HttpRequest) -> dict[str, Any]:
    return getattr(request, "scope", {})


def model_name(raw: str) -> str:
    """One spelling for one model: percent-encoding undone once more, the `models/` prefix gone, case kept."""
    name = unquote(raw) if "%" in raw else raw
    while name.startswith("models/"):
        name = name[len("models/") :]
    return name


def client_deadline(seconds: str) -> float | None:
    """X-Server-Timeout: how long the client itself will wait, in seconds from now."""
    if not seconds:
        return None
    try:
        wait = float(seconds)
    except ValueError:
        return None
    return time.monotonic() + wait if 0 < wait < 86_400 else None
