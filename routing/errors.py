"""What can go wrong beyond the door, in the words the router decides by.

    RoutingError
    ├── NoDeployment       nothing is there to send the call to (or everything cools down)
    ├── UpstreamRefusal    an upstream answered with something else than 2xx: raw, not understood yet
    └── UpstreamError      the same, or a broken connection, understood: its kind decides what follows

`upstream.py` raises `UpstreamRefusal` (raw bytes) and `UpstreamError` (connection trouble). A translator
reads a refusal in its vendor's words and turns it into an `UpstreamError`. The router looks only at `kind`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal[
    "invalid",  # the caller's request is at fault: 400, 413, 422
    "too_long",  # the prompt does not fit the model's context window
    "credential",  # 401, 403: the operator's credential, never the client's
    "billing",  # 402, or a 429 that waiting will not cure
    "not_found",  # the upstream does not know the model or deployment
    "timeout",  # no answer in time: 408, 504, our own deadlines
    "rate_limited",  # 429 that waiting cures
    "conflict",  # 409
    "server",  # 500
    "unavailable",  # 502, 503, 529, 424
    "connect",  # refused, reset, DNS, TLS: nothing was sent
    "protocol",  # it answered, but not in its own language (unparsable body, stream without an end)
    "cut",  # a stream ended before its proper end, or was damaged on the way
]

# Worth another deployment, as long as the client has heard nothing (protocols: error mapping).
RETRYABLE: frozenset[Kind] = frozenset(
    {
        "credential", "billing", "not_found", "timeout", "rate_limited", "conflict",
        "server", "unavailable", "connect", "protocol", "cut",
    }
)  # fmt: skip
# Says nothing about the deployment's health.
CLIENT_FAULT: frozenset[Kind] = frozenset({"invalid", "too_long"})


class RoutingError(Exception):
    """Base of everything this room raises."""


class NoDeployment(RoutingError):
    """No deployment can take the call.

    reason: "none" (the model has no enabled deployment), "cooling" (all are cooling down or broken),
    "rate_limited" (all cool down because of rate limits).
    retry_after: seconds until the earliest one returns, None when unknown.
    """

    def __init__(
        self, model: str, reason: Literal["none", "cooling", "rate_limited"], retry_after: float | None = None
    ) -> None:
        super().__init__(f"No deployment of {model} can take the call ({reason}).")
        self.model = model
        self.reason = reason
        self.retry_after = retry_after


class UpstreamRefusal(RoutingError):
    """An upstream's answer other than 2xx, as it came. `body` is at most 64 KiB; header names are lower case."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(f"The upstream answered {status}.")
        self.status = status
        self.headers = headers
        self.body = body


@dataclass(eq=False)
class UpstreamError(RoutingError):
    """An upstream failure, understood.

    message: for the client when `kind` is a client fault (vendor's words, redacted), else for the log only.
    retry_after: seconds the vendor asks us to wait, None when it did not say.
    provider_status, provider_code, request_id: what the vendor said, for ErrorInfo and the record.
    sent: whether the request may have reached the vendor's model (a retry may then be billed twice).
    details: google.rpc details to hand through (only from Gemini-speaking upstreams).
    drop_field: for a refusal of one parameter that may be left out: its vendor name; a retry without it is fair.
    """

    kind: Kind
    message: str
    retry_after: float | None = None
    provider_status: int | None = None
    provider_code: str = ""
    request_id: str = ""
    sent: bool = True
    details: list[dict[str, object]] = field(default_factory=list)
    drop_field: str = ""

    def __post_init__(self) -> None:
        super().__init__(self.message)
