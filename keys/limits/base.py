"""What admission asks and answers, whatever store keeps the counters.

A limiter takes either everything a call asks for, in every limit that applies, or nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from keys.context import KeyContext, LimitRule


@dataclass(frozen=True, slots=True)
class Ask:
    """The worst case of one call: tokens (prompt estimate and output cap), spend in nano-dollars at the dearest price."""

    call_id: str
    model: str
    tokens: int = 0
    spend: int = 0


@dataclass(frozen=True, slots=True)
class Used:
    """What a call really used. Its request counts whatever it used."""

    tokens: int = 0
    spend: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """The tightest limit after admission, for the headers. amount and remaining in the limit's unit; reset in seconds."""

    rule: LimitRule
    remaining: int
    reset: float


@dataclass(frozen=True, slots=True)
class Hold:
    """What admission took for one call, to be settled or released exactly once (again is harmless).

    rules: the limits that applied. None were: an empty hold, which costs nothing to settle.
    """

    call_id: str
    organization_id: str
    rules: tuple[LimitRule, ...]
    ask: Ask
    at: float  # Unix seconds of admission: decides which period is charged
    time_zone: str = "UTC"
    standing: Standing | None = None
    degraded: bool = False  # taken from this process's own share: the shared store was out of reach
    plan: Any = field(default=None, repr=False, compare=False)  # the limiter's own: where the rules were counted


class LimitReached(Exception):
    """A hard limit has no room. Nothing was taken.

    used: used and held, in the limit's unit. model: what was asked for. retry_after: true seconds until enough room can be there; for a
    lifetime limit a very long time (above 300 s).
    """

    def __init__(self, rule: LimitRule, used: int, retry_after: float, model: str) -> None:
        super().__init__(f"The limit {rule.id} of {rule.subject} {rule.subject_id} is reached.")
        self.rule = rule
        self.used = used
        self.retry_after = retry_after
        self.model = model

    @property
    def standing(self) -> Standing:
        """The full limit, for the headers of the refusal."""
        return Standing(self.rule, max(0, self.rule.amount - self.used), self.retry_after)


class LimitsUnavailable(Exception):
    """The shared store is out of reach and the key's outage policy is `deny`."""


class Limiter(Protocol):
    """One contract, two keepers: memory.py and redis.py. Times come in, so that tests can move the clock."""

    async def open(self) -> None: ...
    async def close(self) -> None: ...

    async def admit(self, key: KeyContext, rules: Sequence[LimitRule], ask: Ask, now: float) -> Hold:
        """Take `ask` in every rule or raise LimitReached / LimitsUnavailable. Soft rules never refuse."""
        ...

    def settle(self, hold: Hold, used: Used) -> None:
        """Replace what was held by what was used. Synchronous: never awaits, never raises, idempotent by call id."""
        ...

    def release(self, hold: Hold) -> None:
        """Give back everything, the request count too: the call never reached an upstream and was refused later."""
        ...

    def reached(self, hold: Hold) -> None:
        """An upstream is about to hear of this call: if its process dies now, it is charged as held. Synchronous."""
        ...

    async def usage(
        self, rules: Sequence[LimitRule], now: float, time_zone: str, organization_id: str
    ) -> list[tuple[int, int]]:
        """(used, held) for each rule of one organization, for pages and reconciliation. Raises StoreDown."""
        ...

    async def correct(
        self, rules: Sequence[LimitRule], more: Sequence[int], now: float, time_zone: str, organization_id: str
    ) -> None:
        """Add to what was used in each rule's period of now (less than nothing: take away). Raises StoreDown."""
        ...
