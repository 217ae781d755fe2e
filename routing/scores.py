"""What is known of one deployment: latency, failures, calls in flight, what is left of its own limits.

Pure arithmetic: no clock, no chance, no I/O; the time is handed in (seconds of one monotonic clock).
scores_memory.py keeps the scores of this process, scores_redis.py shares them between processes.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass, field

from routing.breaker import Breaker, Ring
from routing.catalog import DeploymentEntry

TAU = 10.0  # seconds in which an old latency loses its weight (finagle, linkerd: peak EWMA)
CLIMB = 1 / 3  # how much of a higher sample counts at once: a slow one shows in a few calls, one hiccup does not rule
STALE = 20.0  # seconds without a sample after which a deployment is worth a look again
UNKNOWN = 1.0  # seconds, assumed while nothing is measured (tower's start value)
PATIENCE = 8  # calls in flight that hardly matter; see Score.load
SPARE = 2**31  # the tier of weight 0: taken when nothing else is there
PREFILL = 10_000.0  # prompt tokens that double the time to the first token


def size_factor(prompt_tokens: int) -> float:
    """How much longer the first token takes for a prompt of this size: reading a prompt is linear work."""
    return 1.0 + prompt_tokens / PREFILL


@dataclass(slots=True)
class Latency:
    """Peak-sensitive moving average of the time to first token, in seconds for an empty prompt. Successes only."""

    value: float = 0.0
    at: float = -math.inf
    samples: int = 0

    def observe(self, seconds: float, prompt_tokens: int, now: float) -> None:
        sample = seconds / size_factor(prompt_tokens)
        kept = math.exp(-max(0.0, now - self.at) / TAU) if self.samples else 0.0
        if sample > self.value:
            kept = min(kept, 1.0 - CLIMB)
        self.value = self.value * kept + sample * (1.0 - kept)
        self.at = now
        self.samples += 1

    def adopt(self, value: float, now: float) -> None:
        """Start from what another process measured."""
        if not self.samples:
            self.value, self.at, self.samples = value, now, 1


class RetryBudget:
    """Retries of one model: at most 10 % of its calls over 10 s, with a floor of 3 a second (SRE, finagle)."""

    SHARE, FLOOR, SPAN = 0.1, 3.0, 10

    __slots__ = ("_calls",)

    def __init__(self) -> None:
        self._calls = Ring(buckets=self.SPAN, width=1.0)  # good: first tries, bad: retries

    def called(self, now: float) -> None:
        self._calls.add(now, good=1)

    def take(self, now: float) -> bool:
        """Take one retry, if there is one left."""
        calls, retries = self._calls.totals(now)
        if retries + 1 > max(self.SHARE * calls, self.FLOOR * self.SPAN):
            return False
        self._calls.add(now, bad=1)
        return True


class Minute:
    """Requests and tokens in the minute that ends now, estimated from two fixed minutes (a sliding window).

    elsewhere: what the other processes counted, as last heard.
    """

    __slots__ = ("current", "elsewhere", "minute", "previous")

    def __init__(self) -> None:
        self.minute = 0
        self.current = [0, 0]
        self.previous = [0, 0]
        self.elsewhere = (0.0, 0.0)

    def add(self, now: float, requests: int = 0, tokens: int = 0) -> None:
        self._turn(now)
        self.current[0] += requests
        self.current[1] = max(0, self.current[1] + tokens)

    def own(self, now: float) -> tuple[float, float]:
        """(requests, tokens) of this process within the last minute."""
        self._turn(now)
        old = 1.0 - (now / 60.0 - self.minute)
        return self.current[0] + old * self.previous[0], self.current[1] + old * self.previous[1]

    def used(self, now: float) -> tuple[float, float]:
        """(requests, tokens) of all processes within the last minute."""
        requests, tokens = self.own(now)
        return requests + self.elsewhere[0], tokens + self.elsewhere[1]

    def _turn(self, now: float) -> None:
        minute = int(now / 60.0)
        if minute > self.minute:
            self.previous = self.current if minute == self.minute + 1 else [0, 0]
            self.current = [0, 0]
            self.minute = minute


# Upper bounds of the latency histogram in milliseconds, a quarter more from one to the next; 5 ms to 10 minutes.
BOUNDS_MS = tuple(round(5 * 1.25**step) for step in range(53))


class Tally:
    """What happened, in slots of five minutes over a day: outcomes, and for an hour how long things took.

    known: what all processes told the store. fresh: what this one has not told yet; without a store that is all.
    unread: the day before was not read from the store yet.
    Field names: an outcome ("ok", "timeout", ...), or "first:" and "total:" with a place in BOUNDS_MS.
    """

    WIDTH, KEPT, DETAILED = 300, 289, 13  # one slot more than a day and an hour have: the oldest is half over

    __slots__ = ("_last", "fresh", "known", "unread")

    def __init__(self) -> None:
        self.unread = True
        self.known: dict[int, dict[str, int]] = {}
        self.fresh: dict[int, dict[str, int]] = {}
        self._last = 0

    def add(self, unix: float, *fields: str) -> None:
        slot = int(unix) // self.WIDTH
        if slot != self._last:
            self._last = slot
            self._sweep(slot)
        counts = self.fresh.setdefault(slot, {})
        for name in fields:
            counts[name] = counts.get(name, 0) + 1

    def since(self, unix: float, seconds: float) -> dict[str, int]:
        """Everything of the last `seconds`, rounded up to whole slots: never less than was asked for."""
        first = int(unix - seconds) // self.WIDTH
        sums: dict[str, int] = {}
        for slots in (self.known, self.fresh):
            for slot, counts in list(slots.items()):  # copied: the health page reads from another thread
                if slot >= first:
                    for name, count in list(counts.items()):
                        sums[name] = sums.get(name, 0) + count
        return sums

    def told(self, slot: int, counts: dict[str, int]) -> None:
        """The store has counted this: it is not fresh any more."""
        fresh, known = self.fresh.get(slot, {}), self.known.setdefault(slot, {})
        for name, count in counts.items():
            known[name] = known.get(name, 0) + count
            left = fresh.get(name, 0) - count
            if left > 0:
                fresh[name] = left
            else:
                fresh.pop(name, None)
        if not fresh:
            self.fresh.pop(slot, None)

    def _sweep(self, current: int) -> None:
        for slots in (self.known, self.fresh):
            for slot in [slot for slot in slots if slot <= current - self.KEPT]:
                del slots[slot]
            for slot, counts in slots.items():
                if slot <= current - self.DETAILED:
                    for name in [name for name in counts if ":" in name]:
                        del counts[name]


def bucket(seconds: float) -> int:
    """The place of a time in BOUNDS_MS."""
    return min(bisect_left(BOUNDS_MS, seconds * 1000), len(BOUNDS_MS) - 1)


def percentile(counts: dict[str, int], prefix: str, share: float) -> int | None:
    """Milliseconds that `share` of the calls stayed below (the upper bound of a bucket), None without calls."""
    found = sorted((int(name[len(prefix) :]), count) for name, count in counts.items() if name.startswith(prefix))
    left = share * sum(count for _, count in found)
    for place, count in found:
        left -= count
        if left <= 0:
            return BOUNDS_MS[place]
    return None


@dataclass(frozen=True, slots=True)
class Failure:
    """The last thing that went wrong: when (Unix seconds), an error kind, and the vendor's or our words."""

    at: float
    kind: str
    text: str


@dataclass(slots=True, eq=False)
class Score:
    """One deployment as the strategies see it.

    streams, answers: time to the first token of streams, and of whole answers, which wait for the last token too: two
    different figures, kept apart. running: calls in flight from this process, flowing: those of
    them whose client hears something already; elsewhere: in flight from the other processes, as last heard. tier: lower goes first. price: nano-dollars of a reference call, None when unknown.
    """

    entry: DeploymentEntry
    breaker: Breaker
    streams: Latency = field(default_factory=Latency)
    answers: Latency = field(default_factory=Latency)
    minute: Minute = field(default_factory=Minute)
    tally: Tally = field(default_factory=Tally)
    running: int = 0
    flowing: int = 0
    elsewhere: int = 0
    price: int | None = None
    last_success: float = -math.inf
    last_failure: Failure | None = None
    limited: bool = False
    tier: int = 0
    version_before: str = ""

    def __post_init__(self) -> None:
        self.replace(self.entry)

    def replace(self, entry: DeploymentEntry) -> None:
        """The same deployment, read anew from the catalog."""
        if entry.version != self.entry.version:
            self.version_before = self.entry.version
        self.entry = entry
        self.tier = entry.priority if entry.weight else SPARE
        self.limited = bool(entry.requests_per_minute or entry.tokens_per_minute or entry.max_parallel)

    @property
    def in_flight(self) -> int:
        return self.running + self.elsewhere

    def ended(self, outcome: str, unix: float, first: float | None, total: float, text: str = "") -> None:
        """Count one finished try. unix: Unix seconds; first, total: seconds, first None when nothing came."""
        if outcome == "ok":
            heard = (f"first:{bucket(first)}",) if first is not None else ()
            self.tally.add(unix, outcome, f"total:{bucket(total)}", *heard)
            return
        self.tally.add(unix, outcome)
        if outcome != "cancelled":
            self.last_failure = Failure(unix, outcome, text)

    def latency(self, stream: bool) -> Latency:
        return self.streams if stream else self.answers

    def load(self, stream: bool) -> float:
        """Expected seconds to the first token, times the calls in flight, by weight. Lower is better.

        Peak EWMA multiplies by (in flight + 1): right for a server with a queue. A model behind an API has no
        queue that a handful of calls would fill, so the first calls in flight weigh little (PATIENCE): two
        deployments of 50 ms and 200 ms and four callers then all stay with the fast one. With hundreds in flight it
        is the classic rule again.
        """
        latency = self.latency(stream)
        seconds = latency.value if latency.samples else UNKNOWN
        return seconds * (self.in_flight + PATIENCE) / (self.entry.weight or 1)

    def full(self, now: float, prompt_tokens: int) -> str:
        """Which of its own limits has no room for one more call, in words; empty when all have."""
        entry = self.entry
        if entry.max_parallel and self.in_flight >= entry.max_parallel:
            return f"{self.in_flight} of {entry.max_parallel} parallel calls in flight"
        if not (entry.requests_per_minute or entry.tokens_per_minute):
            return ""
        requests, tokens = self.minute.used(now)
        if entry.requests_per_minute and requests + 1 > entry.requests_per_minute:
            return f"{requests:.0f} of {entry.requests_per_minute} requests this minute"
        if entry.tokens_per_minute and tokens and tokens + prompt_tokens > entry.tokens_per_minute:
            return f"{tokens:.0f} of {entry.tokens_per_minute} tokens this minute"
        return ""
