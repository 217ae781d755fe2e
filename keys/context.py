"""KeyContext: what the rest of a call may know about its key. Caller: what the request head told about who calls."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Literal

Network = IPv4Network | IPv6Network
Metric = Literal["requests", "tokens", "concurrent", "spend"]
Period = Literal["minute", "hour", "day", "week", "month", "lifetime"]


@dataclass(frozen=True, slots=True)
class LimitRule:
    """One limit that may bind a call. amount: whole units, or nano-dollars for spend.

    subject is "key", "team" or "organization"; subject_id its id. pattern is a model name or pattern.
    """

    id: str
    subject: Literal["key", "team", "organization"]
    subject_id: str
    metric: Metric
    period: Period
    amount: int
    pattern: str = "*"
    hard: bool = True

    def __hash__(self) -> int:
        return hash(self.id)  # rules are looked up with every call


@dataclass(frozen=True, slots=True)
class KeyContext:
    """A virtual key as its process knows it. Frozen: a change makes a new one.

    state: the key's own ("active", "disabled", "revoked"), "suspended" when its organization is.
    expires_at, secret_until: Unix seconds; None means never. secret_until is the grace end of the secret used.
    """

    key_id: str
    key_name: str
    secret_id: str
    organization_id: str
    organization: str
    team_id: str | None = None
    team: str | None = None
    owner_id: str | None = None
    owner: str | None = None
    state: Literal["active", "disabled", "revoked", "suspended"] = "active"
    allowed_models: tuple[str, ...] | None = None
    denied_models: tuple[str, ...] = ()
    scopes: frozenset[str] | None = None
    networks: tuple[Network, ...] | None = None
    expires_at: float | None = None
    secret_until: float | None = None
    strict_fields: bool = False
    log_bodies: bool = False
    outage_policy: Literal["local", "deny"] = "local"
    time_zone: str = "UTC"
    limits: tuple[LimitRule, ...] = ()
    tags: tuple[str, ...] = ()


Source = Literal["header", "query", "bearer", "none"]
Problem = Literal[
    "",  # there is a context
    "missing",  # no credential at all
    "malformed",  # not one of ours: prefix, length or checksum
    "unknown",  # well-formed, but nobody's
    "revoked",
    "expired",
    "unavailable",  # it could not be looked up: never an auth error
]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, as read from the request head. Exactly one of context and problem is set.

    A disabled key or a foreign network still has a context: policy says no. address: the client's IP.
    """

    context: KeyContext | None
    problem: Problem
    source: Source
    address: str = ""
