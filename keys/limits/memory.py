"""The limiter of a process on its own: exact, because nothing interrupts one turn of the event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from math import inf
from typing import Final

from keys.context import KeyContext, LimitRule
from keys.limits import seeding
from keys.limits.base import Ask, Hold, LimitReached, Used
from keys.limits.touched import Touched
from keys.limits.windows import CONCURRENT, REQUESTS, SOON, Place, Plan, Plans, asked, spent, tightest, wait

SWEEP: Final = 5_000  # new counters after which old ones are looked for
KEPT: Final = (
    2 * 86_400.0
)  # seconds that a counter is kept after its period, or without being asked: clocks are set back


class Counter:
    """One calendar period, a lifetime, or the calls under way. total: used and held. asked: when last."""

    __slots__ = ("asked", "ends", "held", "total")

    def __init__(self, ends: float) -> None:
        self.asked = 0.0
        self.total = 0
        self.held = 0
        self.ends = ends

    def slide(self, now: float) -> None:
        """Nothing leaves a calendar period before its end."""

    def add(self, at: float, total: int, held: int) -> None:
        """at: when the call was admitted."""
        self.total += total
        self.held += held

    def buckets(self) -> list[tuple[int, int]]:
        return []


class Window(Counter):
    """A sliding window, in sub-windows by number: [total, held]."""

    __slots__ = ("_oldest", "_parts", "_slots", "_width")

    def __init__(self, width: int, slots: int) -> None:
        super().__init__(0.0)
        self._width = width / 1000
        self._slots = slots
        self._parts: dict[int, list[int]] = {}
        self._oldest = 0

    def slide(self, now: float) -> None:
        first = int(now / self._width) - self._slots
        if first <= self._oldest:
            return
        self._oldest = first
        for number in [number for number in self._parts if number < first]:
            total, held = self._parts.pop(number)
            self.total -= total
            self.held -= held
        self.ends = now + self._width * self._slots

    def add(self, at: float, total: int, held: int) -> None:
        number = int(at / self._width)
        if number < self._oldest:
            return  # it has left the window
        part = self._parts.get(number)
        if part is None:
            part = self._parts[number] = [0, 0]
        part[0] += total
        part[1] += held
        self.total += total
        self.held += held

    def buckets(self) -> list[tuple[int, int]]:
        return [(number, part[0]) for number, part in self._parts.items()]


class MemoryLimiter:
    """Counters of this process alone. They begin with what the ledger knows (seeding.py)."""

    def __init__(self) -> None:
        self.touched = Touched()
        self.on_doubt: Callable[[bool], None] = lambda died: None  # never: nobody else counts here
        self._plans = Plans()
        self._counters: dict[tuple[str, str], Counter] = {}
        self._begun: set[str] = set()
        self._open: dict[str, Hold] = {}
        self._made = 0

    async def open(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> None:
        """Nothing to say good-bye to."""

    async def admit(self, key: KeyContext, rules: Sequence[LimitRule], ask: Ask, now: float) -> Hold:
        if (again := self._open.get(ask.call_id)) is not None:
            return again
        plan = self._plans.at(key.organization_id, rules, now, key.time_zone)
        if not plan.known:
            await self._begin(plan, now)
        self.touched.note(plan)
        hold = self.take(plan, ask, now)
        self._open[ask.call_id] = hold
        return hold

    def settle(self, hold: Hold, used: Used) -> None:
        if self._open.pop(hold.call_id, None) is not None:
            self.replace(hold, spent(used.tokens, used.spend))

    def release(self, hold: Hold) -> None:
        if self._open.pop(hold.call_id, None) is not None:
            self.replace(hold, (0, 0, 0, 0))

    def reached(self, hold: Hold) -> None:
        """What this process holds ends with it: there is nobody to tell."""

    async def usage(
        self, rules: Sequence[LimitRule], now: float, time_zone: str, organization_id: str
    ) -> list[tuple[int, int]]:
        plan = Plan(organization_id, rules, now, time_zone)
        await self._begin(plan, now)
        return [(counter.total - counter.held, counter.held) for counter in self._counted(plan, now)]

    async def correct(
        self, rules: Sequence[LimitRule], more: Sequence[int], now: float, time_zone: str, organization_id: str
    ) -> None:
        plan = Plan(organization_id, rules, now, time_zone)
        for counter, amount in zip(self._counted(plan, now), more, strict=True):
            counter.add(now, amount, 0)

    @asynccontextmanager
    async def alone(self, organization_id: str) -> AsyncIterator[bool]:
        """Whether nobody else corrects this organization's counters meanwhile."""
        yield True

    # ---- one step, shared with the limiter over Redis for its time alone

    def take(self, plan: Plan, ask: Ask, now: float) -> Hold:
        """Everything or nothing. Raises LimitReached, for the limit that takes longest to have room again."""
        amounts = asked(ask)
        counters = self._counted(plan, now)
        totals: list[int] = []
        reached: LimitReached | None = None
        for place, counter in zip(plan.places, counters, strict=True):
            amount = amounts[place.metric]
            totals.append(counter.total + amount)
            if place.rule.hard and counter.total + amount > self.amount(place, now):
                seconds = wait(place, amount, counter.total, counter.held, now, counter.buckets())
                if reached is None or seconds > reached.retry_after:
                    reached = LimitReached(place.rule, counter.total, seconds, ask.model)
        if reached is not None:
            if reached.retry_after > SOON:
                self.touched.refused(plan, reached.rule)
            raise reached
        for place, counter in zip(plan.places, counters, strict=True):
            amount = amounts[place.metric]
            counter.add(now, amount, 0 if place.metric == REQUESTS else amount)
        standing = tightest(plan, totals, now)
        return Hold(
            ask.call_id, plan.organization_id, plan.rules, ask, now, plan.time_zone, standing, plan=plan
        )  # fmt: skip

    def replace(self, hold: Hold, amounts: tuple[int, int, int, int]) -> None:
        """What was held by what was used, in the period of admission."""
        plan: Plan = hold.plan
        held = asked(hold.ask)
        for place in plan.places:
            counter = self._counters.get((place.counter, place.span.name))
            if counter is not None:
                was = held[place.metric]
                counter.add(hold.at, amounts[place.metric] - was, 0 if place.metric == REQUESTS else -was)

    def amount(self, place: Place, now: float) -> int:
        """How much there may be at most."""
        return place.rule.amount

    def _counted(self, plan: Plan, now: float) -> list[Counter]:
        found: list[Counter] = []
        for place in plan.places:
            counter = self._counters.get((place.counter, place.span.name))
            if counter is None:
                counter = self._make(place, now)
            elif place.width:
                counter.slide(now)
            counter.asked = now
            found.append(counter)
        if self._made >= SWEEP:  # here, because what this plan counts in has just been asked and stays
            self._sweep(now)
        return found

    def _make(self, place: Place, now: float) -> Counter:
        self._made += 1
        counter = Window(place.width, place.slots) if place.width else Counter(place.span.ends)
        counter.slide(now)
        self._counters[(place.counter, place.span.name)] = counter
        return counter

    def _sweep(self, now: float) -> None:
        """Counters whose period has long ended, and those without an end that nobody asks any more: the limit is gone.

        Should it not be gone, its counter begins once more with what the ledger knows; plans have to ask for that again.
        """
        self._made = 0
        for key in [key for key, counter in self._counters.items() if self._gone(counter, now)]:
            del self._counters[key]
        self._begun &= {counter for counter, _period in self._counters}
        self._plans = Plans()

    def _gone(self, counter: Counter, now: float) -> bool:
        if counter.ends < inf:
            return counter.ends + KEPT < now
        recoverable = not counter.total or (not counter.held and seeding.rebuild is not None)
        return recoverable and counter.asked + KEPT < now

    async def _begin(self, plan: Plan, now: float) -> None:
        """Counters that nobody has counted in yet begin with what the ledger knows. The others stay meanwhile."""
        for place in plan.places:
            if (there := self._counters.get((place.counter, place.span.name))) is not None:
                there.asked = now
        new = [each for each in plan.places if each.counter not in self._begun and each.metric != CONCURRENT]
        amounts = await seeding.ask(plan.organization_id, new, now)
        for place, amount in zip(new, amounts, strict=True):
            if place.counter not in self._begun:  # somebody else may have been faster
                self._begun.add(place.counter)
                for counter in self._counted(Plan("", [place.rule], now, plan.time_zone), now):
                    counter.add(now, amount, 0)
        plan.known = True
