"""Counters of limits and the ledger: where a counter begins, how far the two differ, and how that is mended.

The ledger is the truth, but it learns of a call half a second late, and of calls under way not at all. So a difference
is known between two bounds: the ledger read before the counters misses calls that they have, read after a moment it
has calls that they miss. Only what lies outside the bounds is drift, and mending never goes beyond it. Looked at several
times, because the ledger is nearly level with the counters just after it took a batch in.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from django.db.models import Count, F, Q, QuerySet, Sum

from keys import limits, policy, reading
from keys.context import LimitRule
from keys.limits import seeding
from keys.limits.memory import MemoryLimiter
from keys.limits.redis import RedisLimiter
from keys.limits.windows import CONCURRENT, place
from lib.background import Background
from lib.database import own_connection
from lib.ids import first_uuid7
from lib.store import StoreDown
from usage.ledger import ledger
from usage.models import RequestRecord, UsageBucket
from usage.rollups import DAY, QUARTER

log = logging.getLogger(__name__)

LAG: Final = 3.0  # seconds after which an ended call is in the ledger
LOOKS: Final = 6  # at the counters within the lag
ON_ITS_WAY: Final = 0.1  # seconds that a settlement may take when the ledger was faster
AT_ONCE: Final = 8  # organizations
# Seconds: when counters are compared after Redis came back or a process died. Other processes find Redis up to two
# seconds later than this one, and tell it then what ended meanwhile.
AFTER_DOUBT: Final = (3.0, 12.0, 62.0)
ALL_TOLD: Final = 10.0  # seconds after Redis's return until everything that waited anywhere has been told
ADOPTED: Final = 60.0  # seconds: what a dead process left in its spool has been adopted, if anybody does
EVERY: Final = 3_600.0  # seconds: when they are compared without any doubt
SLACK: Final = 60.0  # seconds that a call's id may be older than its start

CORRECTED: Final = "The counter of limit %s was corrected by %d: the ledger knows better."

Sums = dict[str, tuple[int, int, int]]  # model: requests, tokens, nano-dollars

_TOKENS = F("prompt_tokens") + F("tool_use_tokens") + F("output_tokens") + F("thoughts_tokens")
_COUNTED = ~Q(deployment_id="") | Q(status="OK")  # a refused call was released: it used nothing
_UNIT = {"requests": 0, "tokens": 1, "spend": 2}


# ---- what the ledger knows


async def rebuild(organization_id: str, asked: Sequence[tuple[LimitRule, float]]) -> list[int]:
    """What was used of each rule since that time, by the ledger: keys.limits.seeding asks."""
    return await asyncio.to_thread(used, organization_id, asked)


def used(organization_id: str, asked: Sequence[tuple[LimitRule, float]]) -> list[int]:
    """The same, for a thread of its own."""
    known: dict[tuple[str, str, float], Sums] = {}
    amounts: list[int] = []
    with own_connection():
        for rule, since in asked:
            if rule.metric == "concurrent":
                amounts.append(0)
                continue
            key = (rule.subject, rule.subject_id, since)
            if key not in known:
                known[key] = _sums(organization_id, rule, since)
            unit = _UNIT[rule.metric]
            amounts.append(sum(sums[unit] for model, sums in known[key].items() if policy.matches(rule.pattern, model)))
    return amounts


def _sums(organization_id: str, rule: LimitRule, since: float) -> Sums:
    """Sliding windows from the records; calendar periods from the roll-ups, which outlive them."""
    whose = Q(organization_id=organization_id)
    if rule.subject != "organization":
        whose &= Q(**{f"{rule.subject}_id": rule.subject_id})
    found: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    if rule.period in ("minute", "hour"):
        _add(found, _recent(since).filter(whose), requests=None)
    else:
        for buckets in _buckets(since):
            _add(found, buckets.filter(whose), requests="requests")
    return {model: (sums[0], sums[1], sums[2]) for model, sums in found.items()}


def _recent(since: float) -> QuerySet[RequestRecord]:
    return RequestRecord.objects.filter(
        id__gte=first_uuid7(int((since - SLACK) * 1000)), started_at__gte=datetime.fromtimestamp(since, UTC)
    )


def _buckets(since: float) -> list[QuerySet[UsageBucket]]:
    """Whole days, and the quarters of an hour before the first of them. Midnight everywhere is on a quarter."""
    days = UsageBucket.objects.filter(width=DAY)
    if math.isinf(since):
        return [days]
    begins = datetime.fromtimestamp(since, UTC)
    whole = begins.replace(hour=0, minute=0, second=0, microsecond=0)
    if whole < begins:
        whole += timedelta(days=1)
    quarters = UsageBucket.objects.filter(width=QUARTER, start__gte=begins, start__lt=whole)
    return [quarters, days.filter(start__gte=whole)]


def _add(found: dict[str, list[int]], rows: QuerySet[Any], requests: str | None) -> None:
    counted = rows.filter(_COUNTED).values("model").order_by()
    summed = counted.annotate(
        tokens=Sum(_TOKENS), spend=Sum("cost_nano"), calls=Sum(requests) if requests else Count("pk")
    )
    for row in summed:
        sums = found[row["model"]]
        for unit, name in enumerate(("calls", "tokens", "spend")):
            sums[unit] += int(row[name] or 0)


# ---- drift


@dataclass(frozen=True, slots=True)
class Comparison:
    """One limit's counter beside the ledger, in the limit's unit. drift: how much too much the counter has (or too
    little), as far as that is certain."""

    organization: str
    rule: LimitRule
    period: str
    used: int
    held: int
    ledger: int
    drift: int


async def compare(
    limiter: MemoryLimiter | RedisLimiter,
    limited: reading.Limited,
    *,
    lag: float = LAG,
    repair: bool = False,
    only_upwards: bool = False,
) -> list[Comparison]:
    """Every calendar and lifetime limit of one organization. Raises StoreDown.

    Sliding windows renew themselves within the hour, and calls under way are counted by their leases. With
    repair, empty while somebody else does it. only_upwards: the ledger may still hear of calls that a dead process left.
    """
    now = time.time()
    whose, zone = limited.organization_id, limited.time_zone
    places = [place(rule, now, zone) for rule in limited.rules]
    places = [each for each in places if not each.width and each.metric != CONCURRENT]
    if not places:
        return []
    rules = [each.rule for each in places]
    asked = [(each.rule, each.since(now)) for each in places]
    async with limiter.alone(whose) as alone:
        if repair and not alone:
            return []
        counted = await limiter.usage(rules, now, zone, whose)
        missing = [0] * len(rules)
        for _ in range(LOOKS):
            earlier = await rebuild(whose, asked)
            await asyncio.sleep(min(lag, ON_ITS_WAY))
            later = await limiter.usage(rules, now, zone, whose)
            missing = [min(less, used - known) for less, (used, _), known in zip(missing, later, earlier, strict=True)]
            await asyncio.sleep(lag / LOOKS)
        known_now = await rebuild(whose, asked)
        found = [
            Comparison(limited.organization, each.rule, each.span.name, used, held, known, max(0, used - known) or less)
            for each, (used, held), known, less in zip(places, counted, known_now, missing, strict=True)
        ]
        if only_upwards:
            found = [each if each.drift < 0 else replace(each, drift=0) for each in found]
        if repair and any(each.drift for each in found):
            await limiter.correct(rules, [-each.drift for each in found], now, zone, whose)
    return found


class Reconciling:
    """The background task of a process: compares when there is doubt, and once an hour."""

    def __init__(self) -> None:
        self.mended = 0  # counters, since the start
        self._due: list[float] = []
        self._certain = 0.0  # when the ledger will know all that counters know
        self._wake = asyncio.Event()  # binds itself to the loop that waits for it
        self._rounds = Background("limits.reconciling", self._round)

    def doubt(self, died: bool) -> None:
        """Counters may differ from the ledger: look soon, and again when late news has arrived. Too much in a counter is
        believed later than too little, and later still when a process died, for the ledger may hear of its calls yet."""
        now = time.monotonic()
        self._certain = max(self._certain, now + (ADOPTED if died else ALL_TOLD))
        self._due = [now + delay for delay in AFTER_DOUBT]
        self._wake.set()

    def certain(self, now: float) -> bool:
        """Whether what counters have beyond the ledger is too much, and not just news to it. now: `time.monotonic()`."""
        return now >= self._certain and not ledger.failures

    async def open(self) -> None:
        seeding.use(rebuild)
        limits.current().on_doubt = self.doubt
        self.doubt(died=True)  # the process before us may have left calls that only its spool knows
        await self._rounds.open()

    async def close(self) -> None:
        seeding.use(None)
        await self._rounds.close()

    async def _round(self) -> None:
        self._wake.clear()
        pause = max(0.0, self._due[0] - time.monotonic()) if self._due else EVERY
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), pause)
            return
        self._due = self._due[1:]
        with contextlib.suppress(StoreDown):  # its return raises doubt again
            await self._mend(only_upwards=not self.certain(time.monotonic()))

    async def _mend(self, *, only_upwards: bool) -> None:
        waiting = iter(await asyncio.to_thread(reading.limited))

        async def next_ones() -> None:
            for limited in waiting:
                for each in await compare(limits.current(), limited, repair=True, only_upwards=only_upwards):
                    if each.drift:
                        self.mended += 1
                        log.warning(CORRECTED, each.rule.id, -each.drift)

        await asyncio.gather(*(next_ones() for _ in range(AT_ONCE)))


reconciling = Reconciling()


async def open() -> None:
    await reconciling.open()


async def close() -> None:
    await reconciling.close()
