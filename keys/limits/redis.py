"""The limiter of all processes together: one script a step (scripts.py), one step for every limit that applies.

    admit      asks Redis, 50 ms at most; without an answer this process goes on with its own share, or refuses, as the
               key's outage policy says
    settle     goes out with the next pipeline; while Redis is away it waits here
    every 5 s  a heartbeat. Who has not been heard of for 20 s is dead: what it held is given back, or charged

A share is what was left when Redis was last heard of, divided by the processes that lived then. When Redis is back,
what still runs is written down there, what ended meanwhile is settled, and reconciliation adds what is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, NamedTuple

from keys.context import KeyContext, LimitRule
from keys.limits import scripts, seeding
from keys.limits.base import Ask, Hold, LimitReached, LimitsUnavailable, Used
from keys.limits.memory import MemoryLimiter
from keys.limits.touched import Touched
from keys.limits.windows import CONCURRENT, SOON, Place, Plan, Plans, asked, spent, tightest, wait
from lib.background import Background, cancelled
from lib.store import Script, Store, StoreDown, Value

log = logging.getLogger(__name__)

PROCESSES: Final = "{gatehouse:limits}:processes"
ORGANIZATIONS: Final = "{gatehouse:limits}:organizations"
LEASE: Final = 20.0  # seconds without a heartbeat after which a process is dead
BEAT_EVERY: Final = 5.0  # seconds
TELL_EVERY: Final = 0.25  # seconds between two reports of calls that reached an upstream
UNDO_AFTER: Final = 0.25  # seconds until what may have been taken is given back: it was decided by then
# Seconds after which a call that found too many under way asks once more: one whose answer has just left is settled by
# then, and the next call of the same client may be at another process already.
JUST_ENDED: Final = 0.03
BUNDLE: Final = 500  # scripts sent at once when Redis is back
REMEMBER_MS: Final = 3_600_000  # how long a dead process's call may still be settled
CORRECTING_MS: Final = 60_000  # how long one process may take to correct an organization's counters
WAITING: Final = 500_000  # settlements kept while Redis is away
LAST_SEEN: Final = 50_000  # counters whose last standing is remembered


def leases(organization_id: str) -> str:
    return f"{{gatehouse:limits:{organization_id}}}:leases"


class Share(MemoryLimiter):
    """What this process may use on its own: its part of what was left when Redis was last heard of."""

    def __init__(self) -> None:
        super().__init__()
        self.processes = 1
        self.seen: dict[tuple[str, str], tuple[int, float]] = {}  # counter and period: used and held, and when

    def saw(self, plan: Plan, totals: Sequence[int], now: float) -> None:
        if len(self.seen) >= LAST_SEEN:
            self.seen.clear()
        for place, total in zip(plan.places, totals, strict=True):
            self.seen[(place.counter, place.span.name)] = (total, now)

    def amount(self, place: Place, now: float) -> int:
        """Of what a period still counts only the rest is shared; calls under way end by themselves."""
        left = place.rule.amount
        if place.metric != CONCURRENT:
            total, at = self.seen.get((place.counter, place.span.name), (0, now))
            if at >= place.since(now):
                left = max(0, left - total)
        share = left // self.processes
        return max(share, 1) if left and place.rule.metric in ("requests", "concurrent") else share

    def forget(self) -> None:
        """Redis counts again."""
        self._counters.clear()
        self._begun.clear()


class RedisLimiter:
    """One process's part. Belongs to the event loop of its store."""

    def __init__(self, store: Store, *, lease: float = LEASE, beat: float = BEAT_EVERY) -> None:
        self.touched = Touched()
        self.process = secrets.token_hex(6)
        self.reaped = 0  # leases of dead processes that this one gave back or charged
        # Counters may differ from the ledger: reconcile soon. Told whether a process died, whose last calls the ledger lacks.
        self.on_doubt: Callable[[bool], None] = lambda died: None
        self._store = store
        self._ready = True  # Redis knows everything of ours that it has to know
        self._lease_ms = round(lease * 1000)
        self._plans = Plans()
        self._share = Share()
        self._open: dict[str, Hold] = {}
        self._told: set[str] = set()  # calls whose state is 1 in Redis, or will be
        self._tell: dict[str, str] = {}  # call: organization, to be told soon
        self._waiting: deque[tuple[Script, str, tuple[Value, ...]]] = deque()
        self._undo: dict[str, tuple[str, asyncio.TimerHandle]] = {}
        self._registering: dict[str, tuple[Value, ...] | None] = {}  # call: its settlement, if it ended meanwhile
        self._organizations: set[str] = set()  # that Redis knows of our holds for
        self._beating = Background("limits.heartbeat", self._heartbeat, every=beat, first=beat)
        self._others: set[asyncio.Task[None]] = set()
        self._teller: asyncio.TimerHandle | None = None

    async def open(self) -> None:
        self._store.on_down(self._gone)
        self._store.on_up(self._back)
        await self._heartbeat()
        await self._beating.open()

    async def close(self) -> None:
        """Say what is to be said. What is still open is another process's to reap."""
        await self._beating.close()
        await cancelled(*self._others)
        for call_id, (_, timer) in list(self._undo.items()):
            timer.cancel()
            self._undone(call_id)
        if self._teller is not None:
            self._teller.cancel()
            self._tell_reached()
        if self._store.available and not self._open:
            self._store.submit("HDEL", PROCESSES, self.process)

    # ---- the contract

    async def admit(self, key: KeyContext, rules: Sequence[LimitRule], ask: Ask, now: float) -> Hold:
        if (again := self._open.get(ask.call_id)) is not None:
            return again
        plan = self._plans.at(key.organization_id, rules, now, key.time_zone)
        self.touched.note(plan)
        if not self._store.available or not self._ready:
            return self._alone(key, plan, ask, now)
        if plan.organization_id not in self._organizations:
            self._organizations.add(plan.organization_id)
            self._store.submit("SADD", ORGANIZATIONS, plan.organization_id)
        try:
            answer = await self._asked(plan, ask, now)
            if answer[0] == b"refused" and all(plan.places[each.place].metric == CONCURRENT for each in full(answer)):
                await asyncio.sleep(JUST_ENDED)
                answer = await self._asked(plan, ask, now)
        except StoreDown:  # it may have been taken there all the same
            return self._alone(key, plan, ask, now)
        except asyncio.CancelledError:
            self._undo_soon(plan, ask)
            raise
        if answer[0] == b"refused":
            raise self._refusal(plan, ask, answer, now)
        standing = None
        if answer[0] == b"held":
            totals: list[int] = answer[1:]
            self._share.saw(plan, totals, now)
            standing = tightest(plan, totals, now)
        hold = Hold(ask.call_id, plan.organization_id, plan.rules, ask, now, plan.time_zone, standing, plan=plan)
        self._open[ask.call_id] = hold
        return hold

    def settle(self, hold: Hold, used: Used) -> None:
        self._end(hold, 1, used.tokens, used.spend)

    def release(self, hold: Hold) -> None:
        self._end(hold, 0, 0, 0)

    def reached(self, hold: Hold) -> None:
        """Told in bundles; a call that has ended by then is not worth it."""
        if hold.call_id not in self._open or hold.call_id in self._told:
            return
        self._told.add(hold.call_id)
        self._tell[hold.call_id] = hold.organization_id
        if self._teller is None:
            self._teller = asyncio.get_running_loop().call_later(TELL_EVERY, self._tell_reached)

    async def usage(
        self, rules: Sequence[LimitRule], now: float, time_zone: str, organization_id: str
    ) -> list[tuple[int, int]]:
        plan = Plan(organization_id, rules, now, time_zone)
        await self._begin(plan, now)
        found = await self._store.run(scripts.USAGE, [leases(organization_id)], [plan.text, _ms(now)])
        return list(zip(found[::2], found[1::2], strict=True))

    async def correct(
        self, rules: Sequence[LimitRule], more: Sequence[int], now: float, time_zone: str, organization_id: str
    ) -> None:
        plan = Plan(organization_id, rules, now, time_zone)
        await self._store.run(scripts.CORRECT, [leases(organization_id)], [plan.text, _ms(now), *more])

    @asynccontextmanager
    async def alone(self, organization_id: str) -> AsyncIterator[bool]:
        """Whether nobody else corrects this organization's counters meanwhile. Raises StoreDown."""
        lock = f"{{gatehouse:limits:{organization_id}}}:correcting"
        mine = bool(await self._store.execute("SET", lock, self.process, "NX", "PX", CORRECTING_MS))
        try:
            yield mine
        finally:
            if mine:
                with contextlib.suppress(StoreDown):
                    await self._store.execute("DEL", lock)

    # ---- with Redis

    async def _asked(self, plan: Plan, ask: Ask, now: float) -> list[Any]:
        keys = [leases(plan.organization_id)]
        args = self._hold_args(plan, ask, now)
        answer: list[Any] = await self._store.run(scripts.ADMIT, keys, args)
        while answer[0] == b"unknown":
            await self._begin(plan, now)
            answer = await self._store.run(scripts.ADMIT, keys, args)
        return answer

    def _hold_args(self, plan: Plan, ask: Ask, at: float) -> list[Value]:
        _, _, tokens, spend = asked(ask)
        return [ask.call_id, self.process, plan.text, tokens, spend, _ms(at)]

    async def _begin(self, plan: Plan, now: float) -> None:
        """Counters that Redis does not know begin with what the ledger knows. Another process may be faster."""
        known = [place for place in plan.places if place.metric != CONCURRENT]
        amounts = dict(zip([place.counter for place in known], await self._history(plan, known, now), strict=True))
        begun = [amounts.get(place.counter, 0) for place in plan.places]
        await self._store.run(scripts.BEGIN, [leases(plan.organization_id)], [plan.text, _ms(now), *begun])

    async def _history(self, plan: Plan, places: Sequence[Place], now: float) -> list[int]:
        """Of the counters that have not begun; nothing for the others, which ignore it."""
        prefix = leases(plan.organization_id).removesuffix("leases")
        begun = await asyncio.gather(*(self._store.execute("HEXISTS", prefix + place.counter, "i") for place in places))
        new = [place for place, there in zip(places, begun, strict=True) if not there]
        amounts = dict(
            zip([place.counter for place in new], await seeding.ask(plan.organization_id, new, now), strict=True)
        )
        return [amounts.get(place.counter, 0) for place in places]

    def _refusal(self, plan: Plan, ask: Ask, answer: list[Any], now: float) -> LimitReached:
        """Of the limits that are full, the one that takes longest to have room again."""
        amounts = asked(ask)
        worst: LimitReached | None = None
        for each in full(answer):
            place = plan.places[each.place]
            seconds = wait(place, amounts[place.metric], each.total, each.held, now, each.buckets)
            if worst is None or seconds > worst.retry_after:
                worst = LimitReached(place.rule, each.total, seconds, ask.model)
        assert worst is not None
        if worst.retry_after > SOON:
            self.touched.refused(plan, worst.rule)
        return worst

    def _end(self, hold: Hold, counts: int, tokens: int, spend: int) -> None:
        if self._open.pop(hold.call_id, None) is None:
            return
        self._told.discard(hold.call_id)
        self._tell.pop(hold.call_id, None)
        if hold.degraded:
            self._share.replace(hold, spent(tokens, spend) if counts else (0, 0, 0, 0))

        args: tuple[Value, ...] = (hold.call_id, counts, tokens, spend)
        if hold.degraded:
            args = (*args, hold.plan.text, _ms(hold.at))
        if hold.call_id in self._registering:
            self._registering[hold.call_id] = args
        else:
            self._send(scripts.SETTLE, hold.organization_id, args)

    def _undo_soon(self, plan: Plan, ask: Ask) -> None:
        """Nobody waits for the answer any more, and Redis may have taken the hold, or may be about to."""
        timer = asyncio.get_running_loop().call_later(UNDO_AFTER, self._undone, ask.call_id)
        self._undo[ask.call_id] = (plan.organization_id, timer)

    def _undone(self, call_id: str) -> None:
        organization_id, _ = self._undo.pop(call_id)
        self._send(scripts.SETTLE, organization_id, (call_id, 0, 0, 0))

    def _send(self, script: Script, organization_id: str, args: tuple[Value, ...]) -> None:
        if self._store.available:
            sent = self._store.send(script, [leases(organization_id)], args)
            sent.add_done_callback(partial(self._sent, script, organization_id, args))
        elif len(self._waiting) < WAITING:
            self._waiting.append((script, organization_id, args))
        else:
            log.critical("A settlement is lost to a long outage of Redis: `manage.py reconcile --repair` finds it.")

    def _sent(self, script: Script, organization_id: str, args: tuple[Value, ...], answer: asyncio.Future[Any]) -> None:
        """Sent twice it does no harm."""
        error = None if answer.cancelled() else answer.exception()
        if answer.cancelled() or isinstance(error, StoreDown):
            self._send(script, organization_id, args)
        elif error is not None:
            log.error("Redis refused a settlement: %s", error)

    def _tell_reached(self) -> None:
        self._teller = None
        tell, self._tell = self._tell, {}
        by_organization: dict[str, list[str]] = {}
        for call_id, organization_id in tell.items():
            by_organization.setdefault(organization_id, []).append(call_id)
        for organization_id, calls in by_organization.items():
            self._send(scripts.REACHED, organization_id, tuple(calls))

    # ---- without Redis

    def _alone(self, key: KeyContext, plan: Plan, ask: Ask, now: float) -> Hold:
        """This process's own share, or a refusal. In either case Redis may have the hold: it will be told."""
        try:
            if key.outage_policy == "deny":
                raise LimitsUnavailable
            taken = self._share.take(plan, ask, now)
        except (LimitReached, LimitsUnavailable):
            self._undo_soon(plan, ask)
            raise
        hold = Hold(
            taken.call_id, taken.organization_id, taken.rules, ask, now, plan.time_zone, taken.standing, degraded=True, plan=plan
        )  # fmt: skip
        self._open[ask.call_id] = hold
        if self._store.available:  # it was only slow
            self._beside(self._register([hold]))
        return hold

    async def _register(self, holds: Sequence[Hold]) -> None:
        """Write holds down that are not there, and settle those that ended meanwhile, in this order."""
        for start in range(0, len(holds), BUNDLE):
            bundle = [hold for hold in holds[start : start + BUNDLE] if hold.call_id in self._open]
            self._registering.update({hold.call_id: None for hold in bundle})
            await asyncio.gather(*(self._registered(hold) for hold in bundle))
            for hold in bundle:
                if (args := self._registering.pop(hold.call_id, None)) is not None:
                    self._send(scripts.SETTLE, hold.organization_id, args)

    async def _registered(self, hold: Hold) -> None:
        state = 1 if hold.call_id in self._told else 0
        args = [*self._hold_args(hold.plan, hold.ask, hold.at), state]
        with contextlib.suppress(StoreDown):  # it is gone again: the next return does it
            await self._store.run(scripts.REGISTER, [leases(hold.organization_id)], args)

    def _gone(self) -> None:
        self._ready = False

    def _back(self) -> None:
        """Redis is there again, perhaps without its memory. It is asked again as soon as it knows what we know."""
        self._organizations.clear()
        self._beside(self._recover())

    async def _recover(self) -> None:
        try:
            await self._heartbeat()
            await self._register(list(self._open.values()))
            await self._flush()
        except Exception:  # calls must not be left to their share for good
            log.exception("Not everything could be told to Redis: `manage.py reconcile --repair` mends it.")
        self._ready = self._store.available
        self._share.forget()
        self.on_doubt(False)

    async def _flush(self) -> None:
        """Send what waited, until Redis has all of it or is away again. Sent twice it does no harm."""
        while self._waiting and self._store.available:
            bundle = [self._waiting.popleft() for _ in range(min(BUNDLE, len(self._waiting)))]
            answers = await asyncio.gather(
                *(self._store.run(script, [leases(organization)], args) for script, organization, args in bundle),
                return_exceptions=True,
            )
            for order, answer in zip(bundle, answers, strict=True):
                if isinstance(answer, StoreDown):
                    self._waiting.append(order)

    def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="limits.recovery")
        self._others.add(task)
        task.add_done_callback(self._others.discard)

    # ---- the heartbeat

    async def _heartbeat(self) -> None:
        """Say that we live, and see who does not."""
        if not self._store.available:
            return
        try:
            alive, *dead = await self._store.run(scripts.BEAT, [PROCESSES], [self.process, self._lease_ms])
            self._share.processes = max(1, alive)
            if dead:
                await self._reap(dead)
        except StoreDown:
            return

    async def _reap(self, dead: list[bytes]) -> None:
        """Give back or charge what dead processes held, organization by organization; done twice it does no harm."""
        touched = 0
        for organization_id in await self._store.execute("SMEMBERS", ORGANIZATIONS):
            given, charged = await self._store.run(
                scripts.REAP, [leases(organization_id.decode())], [_ms(time.time()), REMEMBER_MS, *dead]
            )
            touched += given + charged
        await self._store.run(scripts.BURY, [PROCESSES], [self._lease_ms, *dead])
        if touched:
            self.reaped += touched
            log.warning("%d holds of %d processes that died were given back or charged.", touched, len(dead))
            self.on_doubt(True)


class Full(NamedTuple):
    """A limit without room: its place in the plan, what is used and held, and what its sub-windows hold of that."""

    place: int
    total: int
    held: int
    buckets: list[tuple[int, int]]


def full(answer: list[Any]) -> Iterator[Full]:
    """The limits that a refusal of scripts.ADMIT names."""
    at = 1
    while at < len(answer):
        index, total, held, count = answer[at : at + 4]
        numbers = answer[at + 4 : at + 4 + count]
        at += 4 + count
        yield Full(index - 1, total, held, list(zip(numbers[::2], numbers[1::2], strict=True)))


def _ms(at: float) -> int:
    return round(at * 1000)
