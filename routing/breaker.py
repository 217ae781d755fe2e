"""Breaker: when a deployment is left alone, and how it comes back. Pure arithmetic; the time is handed in.

Three things keep calls away, each with its own end:

    open       5 failures in a row, or more than half of at least 20 calls within 30 s: 5 s (a setting), doubling up to 300 s;
               then half-open, one probe at a time, and two good probes close it. Each stream that flows meanwhile asks
               for one failure more: of many that began together, the broken ones end first
    held       the credential, the bill or the model's name is wrong over there: 10 minutes, or until the row changes
    cooling    429: as long as the vendor asks (1 to 300 s); without a word 5 s, doubling to 60 s; no probe afterwards

What the caller did wrong (errors.CLIENT_FAULT) says nothing about a deployment and never gets here.
Sources: Envoy's outlier detection (consecutive failures, growing ejection), linkerd (failing ratio in buckets, a cap
of 300 s on Retry-After). Without a breaker a latency-aware choice feeds whoever fails fastest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from routing.errors import Kind

CONSECUTIVE = 5
RATIO, RATIO_SAMPLES = 0.5, 20
OPEN_FIRST, OPEN_MOST = 5.0, 300.0
PROBES_TO_CLOSE = 2
HELD = 600.0
COOL_LEAST, COOL_MOST = 1.0, 300.0
COOL_FIRST, COOL_GUESS_MOST = 5.0, 60.0
CALM = 60.0  # seconds without an opening that forget one earlier opening
UNAVAILABLE_MOST = 30.0  # a 503 may ask for a pause too; one blip must not take a model away for minutes

# What a failure of each kind does to its deployment. "nothing": it is not a sign of bad health.
Effect = Literal["nothing", "failure", "cool", "hold"]
EFFECTS: dict[str, Effect] = {
    "credential": "hold",
    "billing": "hold",
    "not_found": "hold",
    "rate_limited": "cool",
    "conflict": "nothing",
    "timeout": "failure",
    "server": "failure",
    "unavailable": "failure",
    "connect": "failure",
    "protocol": "failure",
    "cut": "failure",
    "invalid": "nothing",
    "too_long": "nothing",
}

State = Literal["closed", "open", "half_open", "held", "cooling"]


@dataclass(slots=True)
class Breaker:
    """One deployment's breaker. Times are seconds of whatever clock the caller uses; 0 means never.

    blocked_until is the later of open_until and cooling_until: the one number the router compares on every call.
    trial: it was opened and has not proved itself since. probing: a probe is under way. permitted: this process may
    send one (another process may hold the only permit).
    """

    blocked_until: float = 0.0
    open_until: float = 0.0
    cooling_until: float = 0.0
    cause: str = ""
    trial: bool = False
    probing: bool = False
    permitted: bool = True
    good_probes: int = 0
    openings: int = 0
    opened_at: float = 0.0
    consecutive: int = 0
    coolings: int = 0
    recent: Ring = field(default_factory=lambda: Ring(buckets=10, width=3.0))

    def state(self, now: float) -> State:
        if now < self.open_until:
            return "held" if EFFECTS.get(self.cause) == "hold" else "open"
        if now < self.cooling_until:
            return "cooling"
        return "half_open" if self.trial else "closed"

    def usable(self, now: float) -> bool:
        """May a call go there now? True for a half-open one only while nobody probes it."""
        return now >= self.blocked_until and not (self.trial and (self.probing or not self.permitted))

    def succeeded(self, now: float, *, probe: bool = False) -> bool:
        """Note a good answer. True when it closed the breaker."""
        self.recent.add(now, good=1)
        self.consecutive = self.coolings = 0
        if self.trial:
            return probe and self._good_probe(now)
        while self.openings and now - self.opened_at >= CALM:
            self.openings -= 1
            self.opened_at += CALM
        return False

    def failed(
        self, kind: Kind, now: float, *, jitter: float, probe: bool = False, retry_after: float | None = None,
        spare_on_ratio: bool = False, open_first: float = OPEN_FIRST, flowing: int = 0,
    ) -> bool:  # fmt: skip
        """Note a failure. True when calls are kept away because of it from now on.

        jitter: 0..1, spreads the opening by 10 % to each side. spare_on_ratio: never open on the ratio alone (it is
        the last one, or half of its group is out already). open_first: seconds of the first opening. flowing: streams that
        bring something from there right now.
        """
        effect = EFFECTS[kind]
        if effect == "nothing":
            return False
        if effect == "hold":
            return self.state(now) != "held" and self._open(now, HELD, kind)
        if effect == "cool":
            return self._cool(now, retry_after, COOL_MOST, kind)
        self.recent.add(now, bad=1)
        self.consecutive += 1
        asked = kind == "unavailable" and bool(retry_after) and self._cool(now, retry_after, UNAVAILABLE_MOST, kind)
        if now < self.open_until or (self.trial and not probe):
            return asked  # a call that began before the opening: known already
        if (
            self.trial
            or self.consecutive >= CONSECUTIVE + flowing
            or (not spare_on_ratio and self._mostly_failing(now))
        ):
            span = min(open_first * 2.0**self.openings, OPEN_MOST)
            return self._open(now, span * (0.9 + 0.2 * jitter), kind)
        return asked

    def mirror(self, now: float, *, open_until: float, cooling_until: float, cause: str, openings: int) -> None:
        """Take over what another process found out. Only ever lengthens; a tenth of a second is the clocks' doing."""
        if open_until > self.open_until + 0.1:
            self.open_until, self.trial, self.good_probes, self.cause = open_until, True, 0, cause
            self.openings = max(self.openings, openings)
            self.opened_at = now
        if cooling_until > self.cooling_until + 0.1:
            self.cooling_until = cooling_until
            if not self.trial:
                self.cause = cause
        self.blocked_until = max(self.open_until, self.cooling_until)

    def reset(self) -> None:
        """Forget everything that keeps calls away: the operator said so, or the deployment is not the same any more."""
        self.blocked_until = self.open_until = self.cooling_until = self.opened_at = 0.0
        self.trial = self.probing = False
        self.good_probes = self.openings = self.consecutive = self.coolings = 0
        self.cause = ""
        self.recent.clear()

    def _mostly_failing(self, now: float) -> bool:
        good, bad = self.recent.totals(now)
        return good + bad >= RATIO_SAMPLES and bad > RATIO * (good + bad)

    def _good_probe(self, now: float) -> bool:
        self.good_probes += 1
        self.open_until = min(self.open_until, now)
        self.blocked_until = max(self.open_until, self.cooling_until)
        if self.good_probes < PROBES_TO_CLOSE:
            return False
        self.trial = False
        self.cause = ""
        self.opened_at = now
        self.recent.clear()
        return True

    def _open(self, now: float, span: float, kind: Kind) -> bool:
        self.open_until = max(self.open_until, now + span)
        self.blocked_until = max(self.open_until, self.cooling_until)
        self.opened_at = now
        self.openings = min(self.openings + 1, 10)
        self.trial = True
        self.good_probes = self.consecutive = 0
        self.cause = kind
        return True

    def _cool(self, now: float, retry_after: float | None, most: float, kind: Kind) -> bool:
        """As long as the vendor asks; without a word longer each time, but not for each of many calls in flight."""
        if retry_after is not None and retry_after > 0:
            span = min(max(retry_after, COOL_LEAST), most)
        elif now < self.cooling_until:
            return False
        else:
            span = min(COOL_FIRST * 2.0**self.coolings, COOL_GUESS_MOST)
            self.coolings = min(self.coolings + 1, 10)
        longer = now + span > self.cooling_until + 0.5
        self.cooling_until = max(self.cooling_until, now + span)
        self.blocked_until = max(self.open_until, self.cooling_until)
        if not self.trial:
            self.cause = kind
        return longer


class Ring:
    """Good and bad counts over the last `buckets` times `width` seconds, exact to one bucket."""

    __slots__ = ("_bad", "_good", "_last", "_width")

    def __init__(self, *, buckets: int, width: float) -> None:
        self._width = width
        self._good = [0] * buckets
        self._bad = [0] * buckets
        self._last = 0

    def add(self, now: float, good: int = 0, bad: int = 0) -> None:
        slot = self._turn(now)
        self._good[slot] += good
        self._bad[slot] += bad

    def totals(self, now: float) -> tuple[int, int]:
        self._turn(now)
        return sum(self._good), sum(self._bad)

    def clear(self) -> None:
        self._good = [0] * len(self._good)
        self._bad = [0] * len(self._bad)

    def _turn(self, now: float) -> int:
        """The bucket of now, after emptying those that were passed since the last visit."""
        count = len(self._good)
        current = int(now / self._width)
        if current > self._last:
            for passed in range(max(self._last + 1, current - count + 1), current + 1):
                self._good[passed % count] = self._bad[passed % count] = 0
            self._last = current
        return self._last % count
