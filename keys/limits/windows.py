"""When a limit's period begins and ends, which counter it has, and how long until there is room. Pure: the time comes in.

- minute, hour: a window that slides with the clock. It is kept in sub-windows; one counts until the last moment of it
  has left the window, so that a window of that length, wherever it begins, never holds more than the amount.
- day, week (from Monday), month: the calendar in the organization's time zone.
- lifetime, and concurrent calls of any period: one counter for good.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import lru_cache
from math import floor, inf
from typing import Final
from zlib import crc32
from zoneinfo import ZoneInfo

from keys.context import LimitRule, Period
from keys.limits.base import Ask, Standing

NEVER: Final = 30 * 86_400.0  # seconds; told where no time brings room back
MOST: Final = 4 * 10**15  # of anything in one call: sums stay below 2^53, where Lua still counts exactly
SOON: Final = 1.0  # seconds; calls under way may give room back at any moment

# Period: (milliseconds, milliseconds of a sub-window).
SLIDING: Final[dict[Period, tuple[int, int]]] = {"minute": (60_000, 1_000), "hour": (3_600_000, 30_000)}

REQUESTS, CONCURRENT, TOKENS, SPEND = range(4)
METRICS: Final = {"requests": REQUESTS, "concurrent": CONCURRENT, "tokens": TOKENS, "spend": SPEND}


@dataclass(frozen=True, slots=True)
class Span:
    """One calendar period. begins, ends: Unix seconds. name sorts by time: 2026-11-25, 2026-W48, 2026-11."""

    name: str
    begins: float = -inf
    ends: float = inf


FOR_GOOD: Final = Span("-")


def span(period: Period, at: float, time_zone: str) -> Span:
    """The calendar period that `at` (Unix seconds) lies in. A day may have 23 or 25 hours."""
    if period not in ("day", "week", "month"):
        return FOR_GOOD
    zone = zone_of(time_zone)
    day = datetime.fromtimestamp(floor(at), zone).date()  # it rounds, and days begin with whole seconds
    if period == "day":
        return _span(day.isoformat(), day, day + timedelta(days=1), zone)
    if period == "week":
        year, week, weekday = day.isocalendar()
        monday = day - timedelta(days=weekday - 1)
        return _span(f"{year}-W{week:02}", monday, monday + timedelta(days=7), zone)
    first = day.replace(day=1)
    return _span(f"{day:%Y-%m}", first, (first + timedelta(days=31)).replace(day=1), zone)


def _span(name: str, first: date, after: date, zone: ZoneInfo) -> Span:
    return Span(name, _midnight(first, zone), _midnight(after, zone))


def _midnight(day: date, zone: ZoneInfo) -> float:
    """The first moment of a day. Where the clock jumps over midnight, that is the moment of the jump."""
    return datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()


@lru_cache(maxsize=512)
def zone_of(name: str) -> ZoneInfo:
    """UTC for a name that nobody knows: limits must go on."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return ZoneInfo("UTC")


@dataclass(frozen=True, slots=True)
class Place:
    """Where one rule is counted at one time.

    counter: names what is counted, so that a limit whose metric, period or pattern is changed begins a new one, and one
    whose amount or name is changed does not. width, slots: of a sliding window, in milliseconds; 0 otherwise.
    """

    rule: LimitRule
    metric: int
    counter: str
    width: int
    slots: int
    span: Span

    def since(self, now: float) -> float:
        """Where what counts now begins, in Unix seconds."""
        return now - self.width * self.slots / 1000 if self.width else self.span.begins

    def resets(self, now: float) -> float:
        """Seconds until this limit is as new, if nothing is asked of it any more."""
        if self.width:
            return self.width * self.slots / 1000
        if self.metric == CONCURRENT:
            return 0.0
        return NEVER if self.span.ends == inf else max(0.0, self.span.ends - now)


def place(rule: LimitRule, at: float, time_zone: str) -> Place:
    metric = METRICS[rule.metric]
    counter = f"{rule.id}:{rule.metric[0]}:{rule.period}:{crc32(rule.pattern.encode()):x}"
    if metric == CONCURRENT:
        return Place(rule, metric, counter, 0, 0, FOR_GOOD)
    if rule.period in SLIDING:
        window, width = SLIDING[rule.period]
        return Place(rule, metric, counter, width, window // width, FOR_GOOD)
    return Place(rule, metric, counter, 0, 0, span(rule.period, at, time_zone))


class Plan:
    """Where the rules of a call are counted: the same for every call until the next period begins."""

    __slots__ = ("begins", "ends", "known", "organization_id", "places", "rules", "text", "time_zone")

    def __init__(self, organization_id: str, rules: Sequence[LimitRule], at: float, time_zone: str) -> None:
        self.organization_id = organization_id
        self.rules = tuple(rules)
        self.time_zone = time_zone
        self.places = tuple([place(rule, at, time_zone) for rule in rules])
        self.begins = max((each.span.begins for each in self.places), default=-inf)
        self.ends = min((each.span.ends for each in self.places), default=inf)
        self.known = False  # every counter has begun, with what the ledger knows
        self.text = " ".join(map(_text, self.places))

    def __repr__(self) -> str:
        return f"Plan({self.text})"


def _text(place: Place) -> str:
    """The place for scripts.py: counter, metric, amount, hard, width, slots, period."""
    rule = place.rule
    return (
        f"{place.counter} {rule.metric[0]} {rule.amount} {int(rule.hard)} {place.width} {place.slots} {place.span.name}"
    )


class Plans:
    """The plans in use, by their rules."""

    SIZE: Final = 20_000

    def __init__(self) -> None:
        self._plans: dict[tuple[LimitRule, ...], Plan] = {}

    def at(self, organization_id: str, rules: Sequence[LimitRule], at: float, time_zone: str) -> Plan:
        rules = tuple(rules)
        plan = self._plans.get(rules)
        if plan is None or not plan.begins <= at < plan.ends or plan.time_zone != time_zone:
            plan = Plan(organization_id, rules, at, time_zone)
            if len(self._plans) >= self.SIZE:
                self._plans.clear()
            self._plans[rules] = plan
        return plan


def asked(ask: Ask) -> tuple[int, int, int, int]:
    """What a call takes, by metric."""
    return 1, 1, min(ask.tokens, MOST), min(ask.spend, MOST)


def spent(tokens: int, spend: int) -> tuple[int, int, int, int]:
    """What remains of a call that has ended, by metric: its request counts, and it is not running any more."""
    return 1, 0, tokens, spend


def wait(place: Place, ask: int, total: int, held: int, now: float, buckets: Iterable[tuple[int, int]] = ()) -> float:
    """True seconds until `ask` can fit. total: used and held; held: of calls under way.

    buckets: (number, used and held) of the sub-windows.
    """
    amount = place.rule.amount
    if ask > amount:
        return NEVER
    if place.metric == CONCURRENT or total - held + ask <= amount:
        return SOON
    if not place.width:
        return place.resets(now)
    too_much = total + ask - amount
    for number, value in sorted(buckets):
        too_much -= value
        if too_much <= 0:
            return max(0.001, (number + 1 + place.slots) * place.width / 1000 - now)
    return place.resets(now)


def tightest(plan: Plan, totals: Sequence[int], now: float) -> Standing | None:
    """The hard limit with the smallest part left, after a call was admitted."""
    found, least, left = None, 2.0, 0
    for each, total in zip(plan.places, totals, strict=True):
        rule = each.rule
        if rule.hard:
            room = rule.amount - total
            part = room / rule.amount if rule.amount > 0 else 0.0
            if part < least:
                found, least, left = each, part, room
    return None if found is None else Standing(found.rule, max(0, left), found.resets(now))
