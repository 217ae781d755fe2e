"""How one deployment is chosen among those that may take the call. Pure: chance is handed in.

Every strategy has one method, `choose`: it gets at least one candidate (same priority, nothing wrong with any of
them) and answers with one of them and the reason in words, for the record of the call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from routing.scores import STALE, Score

LOOK_AGAIN = 1 / 16  # share of the choices that may go to a deployment only to see how fast it is by now


@dataclass(frozen=True, slots=True)
class Draw:
    """One choice to be made: when, for a stream or not, and the source of chance."""

    now: float
    stream: bool
    random: Random


class Strategy(Protocol):
    def choose(self, candidates: Sequence[Score], draw: Draw) -> tuple[Score, str]: ...


class Latency:
    """Power of two choices by Score.load: two at random by weight, the lower load takes the call.

    One of the two that was never measured goes first, one call at a time; one not measured for a while now and then.
    """

    def choose(self, candidates: Sequence[Score], draw: Draw) -> tuple[Score, str]:
        if len(candidates) == 1:
            return candidates[0], "the only one left"
        one, other = pair(candidates, draw.random)
        for score in (one, other):
            if not score.latency(draw.stream).samples and not score.running:
                return score, "not measured yet"
        best, worse = (one, other) if one.load(draw.stream) <= other.load(draw.stream) else (other, one)
        age = draw.now - worse.latency(draw.stream).at
        if age > STALE and not worse.running and draw.random.random() < LOOK_AGAIN:
            return worse, f"not measured for {age:.0f} s"
        return best, f"faster of two: {told(best, draw.stream)} against {told(worse, draw.stream)}"


class Weighted:
    """By weight and chance alone."""

    def choose(self, candidates: Sequence[Score], draw: Draw) -> tuple[Score, str]:
        if len(candidates) == 1:
            return candidates[0], "the only one left"
        weights = [score.entry.weight or 1 for score in candidates]
        chosen = draw.random.choices(candidates, weights)[0]
        return chosen, f"by weight: {chosen.entry.weight} of {sum(weights)}"


class LeastBusy:
    """Fewest calls in flight, by weight. Chance decides between equals."""

    def choose(self, candidates: Sequence[Score], draw: Draw) -> tuple[Score, str]:
        if len(candidates) == 1:
            return candidates[0], "the only one left"
        busy = [score.in_flight / (score.entry.weight or 1) for score in candidates]
        least = min(busy)
        chosen = draw.random.choice([score for score, here in zip(candidates, busy, strict=True) if here == least])
        return chosen, f"least busy: {chosen.in_flight} in flight"


class Cheapest:
    """The lowest price; the fastest of those that cost the same. A deployment without a price comes last."""

    def choose(self, candidates: Sequence[Score], draw: Draw) -> tuple[Score, str]:
        priced = [score for score in candidates if score.price is not None]
        if not priced:
            chosen, reason = FASTEST.choose(candidates, draw)
            return chosen, f"no prices known, {reason}"
        least = min(score.price or 0 for score in priced)
        equals = [score for score in priced if score.price == least]
        if len(equals) == 1:
            return equals[0], f"cheapest of {len(candidates)}"
        chosen, reason = FASTEST.choose(equals, draw)
        return chosen, f"cheapest, {reason}"


class Failover:
    """Always the first of the list; the next only when those before it are out."""

    def choose(self, candidates: Sequence[Score], draw: Draw) -> tuple[Score, str]:
        return candidates[0], "first in order"


FASTEST = Latency()
STRATEGIES: dict[str, Strategy] = {
    "latency": FASTEST,
    "weighted": Weighted(),
    "least_busy": LeastBusy(),
    "cheapest": Cheapest(),
    "failover": Failover(),
}


def pair(candidates: Sequence[Score], random: Random) -> tuple[Score, Score]:
    """Two different candidates at random. The first is drawn by weight, the second from the rest by weight."""
    count = len(candidates)
    if count == 2:
        return (candidates[0], candidates[1]) if random.random() < 0.5 else (candidates[1], candidates[0])
    first = candidates[0].entry.weight
    if all(score.entry.weight == first for score in candidates):
        here = int(random.random() * count)
        there = int(random.random() * (count - 1))
        return candidates[here], candidates[there + (there >= here)]
    weights = [score.entry.weight or 1 for score in candidates]
    here = random.choices(range(count), weights)[0]
    weights[here] = 0
    return candidates[here], candidates[random.choices(range(count), weights)[0]]


def told(score: Score, stream: bool) -> str:
    """A candidate's figures in words."""
    return f"{score.entry.name} ({score.latency(stream).value * 1000:.0f} ms, {score.in_flight} in flight)"
