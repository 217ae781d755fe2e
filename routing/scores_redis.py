"""The scores of all processes, shared through Redis and mirrored into each of them.

Nothing here is on the way of a call: decisions are made from scores_memory.py, and go on without Redis.

    every 250 ms   one script: my report in, everybody's reports and the breakers out
    at once        a breaker that opened, closed or cools: written down, and told over the bus (topic "cooling"), both in
                   one pipeline: the others hear of it about a millisecond later
    every second   counts of outcomes and times, added to slots of five minutes; read back every five seconds

A report says how many calls a process has in flight, its requests and tokens of the last minute, and its latencies.
It counts for five seconds: what a killed process had in flight is gone after that. Breakers have absolute ends in the
time of Redis. A half-open deployment is probed by the process that holds its permit (SET NX PX).

Keys, all with the tag {gatehouse:routing} so that one script may touch them:
    :reports   hash, process id → "milliseconds json"
    :breakers  hash, deployment id → "open_until cooling_until openings cause version" (milliseconds of Redis)
    :probe:ID  string, the process that may probe
    :tally:N   hash, "deployment field" → count; N is Unix time / 300
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable
from typing import Any

from lib import bus, json
from lib.background import Background
from lib.store import Script, Store, StoreDown, Value
from lib.store import store as process_store
from routing import loading
from routing.catalog import Catalog
from routing.scores import Score, Tally
from routing.scores_memory import Board, board

log = logging.getLogger(__name__)

TAG = "{gatehouse:routing}"
TICK = 0.25  # seconds
TALLY_EVERY, READ_EVERY, SWEEP_EVERY = 1.0, 5.0, 5.0  # seconds
LEASE_MS = 5_000  # a report older than this is a dead process's
PERMIT_MS = 5_000  # a permit to probe, renewed while the probe runs
TOPIC = "cooling"
CLOCKS = 0.1  # seconds by which processes may differ about the time of Redis: nobody comes back too early because of it
DEAF = 1.0  # seconds after closing a breaker in which an older opening is not taken over again

# KEYS: reports, breakers, then the probe keys of the deployments this process wants to probe or is probing.
# ARGV: process id, report, lease ms, permit ms. Answer: time in ms, permits (1 or 0 each), others' reports, breakers.
SYNC = Script("""
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', now) .. ' ' .. ARGV[2])
redis.call('PEXPIRE', KEYS[1], 600000)
local permits = {}
for at = 3, #KEYS do
    local mine = redis.call('SET', KEYS[at], ARGV[1], 'NX', 'PX', ARGV[4])
    if not mine and redis.call('GET', KEYS[at]) == ARGV[1] then
        redis.call('PEXPIRE', KEYS[at], ARGV[4])
        mine = true
    end
    permits[#permits + 1] = mine and 1 or 0
end
local reports = {}
local found = redis.call('HGETALL', KEYS[1])
for at = 1, #found, 2 do
    if found[at] ~= ARGV[1] then
        local stamp, report = string.match(found[at + 1], '^(%d+) (.*)$')
        if now - tonumber(stamp) > tonumber(ARGV[3]) then
            redis.call('HDEL', KEYS[1], found[at])
        else
            reports[#reports + 1] = report
        end
    end
end
return {string.format('%.0f', now), permits, reports, redis.call('HGETALL', KEYS[2])}
""")

# KEYS: breakers. ARGV: deployment id, open_until, cooling_until (ms of Redis), openings, cause, version.
# The later end wins; what nobody needed for a quarter of an hour is swept out.
NOTE = Script("""
local time = redis.call('TIME')
local now = time[1] * 1000
local opened, cooling = tonumber(ARGV[2]), tonumber(ARGV[3])
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known then
    local o, c = string.match(known, '^(%d+) (%d+) ')
    opened, cooling = math.max(opened, tonumber(o)), math.max(cooling, tonumber(c))
end
redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f %.0f %s %s %s', opened, cooling, ARGV[4], ARGV[5], ARGV[6]))
local all = redis.call('HGETALL', KEYS[1])
for at = 1, #all, 2 do
    local o, c = string.match(all[at + 1], '^(%d+) (%d+) ')
    if math.max(tonumber(o), tonumber(c)) < now - 900000 then redis.call('HDEL', KEYS[1], all[at]) end
end
return 1
""")

# KEYS: one probe key. ARGV: process id. Give a permit back, if it is still mine.
RETURN = Script("if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0")

# KEYS: one tally slot. ARGV: milliseconds to keep it, then field and count by turns.
COUNT = Script("""
for at = 2, #ARGV, 2 do redis.call('HINCRBY', KEYS[1], ARGV[at], ARGV[at + 1]) end
return redis.call('PEXPIRE', KEYS[1], ARGV[1])
""")
TALLY_MS = (Tally.KEPT + 2) * Tally.WIDTH * 1000


class Sharing:
    """One process's part in the sharing of one board."""

    def __init__(self, scores: Board, store: Store, notices: bus.Bus | None = None) -> None:
        self.board = scores
        self.store = store
        self.process = secrets.token_hex(6)
        self._bus = notices or bus.default()
        self._catalog: Callable[[], Catalog] = Catalog
        self._ahead = 0.0  # Unix seconds of Redis minus our loop's clock
        self._synced = False
        self._deaf: dict[str, float] = {}
        self._permit_until: dict[str, float] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._every = {
            self._sweep: SWEEP_EVERY,
            self._sync: TICK,
            self._tell_tally: TALLY_EVERY,
            self._read_tally: READ_EVERY,
        }
        self._due = dict.fromkeys(self._every, 0.0)
        self._rounds = Background("router.sharing", self._round, every=TICK)
        self._unsubscribe: Callable[[], None] = lambda: None

    async def open(self, catalog: Callable[[], Catalog]) -> None:
        """Start sharing. The store is already open, or opens later, or there is none: then this only tidies up."""
        self._loop = asyncio.get_running_loop()
        self._catalog = catalog
        self._ahead = self.board.epoch
        self.board.changed = self.changed
        self._unsubscribe = self._bus.subscribe(TOPIC, self._heard)
        self.store.on_down(self._alone)
        self._due = dict.fromkeys(self._every, 0.0)
        await self._rounds.open()

    async def look(self, catalog: Callable[[], Catalog]) -> None:
        """Read once what the server processes know, for a command that then ends. Raises StoreDown."""
        self._loop = asyncio.get_running_loop()
        self._catalog, self._ahead = catalog, self.board.epoch
        await self._sweep()
        await self._sync()
        await self._read_tally()
        await self.store.execute("HDEL", f"{TAG}:reports", self.process)
        self._loop = None

    async def close(self) -> None:
        self._unsubscribe()
        await self._rounds.close()
        if self.store.available:
            self.store.submit("HDEL", f"{TAG}:reports", self.process)
        self._loop = None

    # ---- what this process found out

    def changed(self, score: Score, now: float) -> None:
        """A breaker began to keep calls away, or closed: write it down and tell everybody."""
        breaker, id_ = score.breaker, score.entry.id
        if not self.store.available:
            return
        breaker.permitted = not breaker.trial
        self._permit_until.pop(id_, None)
        self.store.submit_script(RETURN, [f"{TAG}:probe:{id_}"], [self.process])
        if not breaker.trial and now >= breaker.blocked_until:
            self._closed(id_, now)
            self.store.submit("HDEL", f"{TAG}:breakers", id_)
            self._publish(f"{self.process} {id_} closed")
            return
        ends = [self._shared_ms(breaker.open_until), self._shared_ms(breaker.cooling_until)]
        told: list[Value] = [*ends, breaker.openings, breaker.cause or "-", score.entry.version or "-"]
        self.store.submit_script(NOTE, [f"{TAG}:breakers"], [id_, *told])
        self._publish(" ".join(map(str, (self.process, id_, *told))))

    def reset(self, deployment_id: str) -> None:
        """An operator takes a breaker back, from whichever thread or process: everybody forgets it."""
        self._forget(deployment_id)
        self._bus.publish_sync(TOPIC, f"{self.process} {deployment_id} reset")

    def _publish(self, subject: str) -> None:
        self.store.submit("PUBLISH", *self._bus.message(TOPIC, subject))

    # ---- what others found out

    def _heard(self, subject: str) -> None:
        """A notice, in any thread. An empty one says that something was missed: the next sync brings it."""
        match subject.split(" "):
            case [process, *_] if process == self.process:
                return
            case [_, id_, "closed" | "reset" as what]:
                self._call(self._forget if what == "reset" else self._close_here, id_)
            case [_, id_, opened, cooling, openings, cause, version]:
                self._call(self._mirror, id_, int(opened), int(cooling), int(openings), cause, version)

    def _call(self, what: Callable[..., None], *args: Any) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                self._loop.call_soon_threadsafe(what, *args)

    def _mirror(self, id_: str, opened: int, cooling: int, openings: int, cause: str, version: str) -> None:
        score, now = self.board.scores.get(id_), self._now()
        if score is None or (score.entry.version or "-") != version or now < self._deaf.get(id_, 0.0):
            return
        before = score.breaker.open_until
        score.breaker.mirror(
            now, open_until=self._local(opened), cooling_until=self._local(cooling) + CLOCKS if cooling else 0.0,
            cause="" if cause == "-" else cause, openings=openings,
        )  # fmt: skip
        if score.breaker.open_until != before:
            score.breaker.permitted = False

    def _close_here(self, id_: str) -> None:
        if (score := self.board.scores.get(id_)) is not None:
            score.breaker.reset()
            score.breaker.permitted = True
        self._closed(id_, self._now())

    def _forget(self, id_: str) -> None:
        self._close_here(id_)
        self._call(self.store.submit, "HDEL", f"{TAG}:breakers", id_)

    def _closed(self, id_: str, now: float) -> None:
        self._deaf[id_] = now + DEAF

    def _alone(self) -> None:
        """Redis is gone: this process probes on its own, and nothing is known of the others."""
        self._synced = False
        for score in self.board.scores.values():
            score.breaker.permitted = True
            score.elsewhere = 0
            score.minute.elsewhere = (0.0, 0.0)

    # ---- the background task

    async def _round(self) -> None:
        for job, seconds in self._every.items():
            if self._now() < self._due[job]:
                continue
            self._due[job] = self._now() + seconds - 0.01
            try:
                await job()
            except StoreDown:
                continue
            except Exception:  # whatever it was: the next turn may be better, and decisions go on without it
                log.exception("Sharing of the router's state failed; it goes on.")

    async def _sync(self) -> None:
        if not self.store.available:
            return
        now = self._now()
        wanted = [id_ for id_, score in self.board.scores.items() if self._wants_permit(id_, score, now)]
        keys = [f"{TAG}:reports", f"{TAG}:breakers", *(f"{TAG}:probe:{id_}" for id_ in wanted)]
        time, permits, reports, breakers = await self.store.run(
            SYNC, keys, [self.process, json.dumps(self._report(now)), LEASE_MS, PERMIT_MS]
        )
        self._ahead = int(time) / 1000 - self._now()
        self._synced = True
        for id_, permit in zip(wanted, permits, strict=True):
            if permit and (score := self.board.scores.get(id_)) is not None:
                if not score.breaker.permitted:
                    self._permit_until[id_] = self._now() + PERMIT_MS / 1000
                score.breaker.permitted = True
        self._read_reports([json.loads(report) for report in reports])
        self._read_breakers(
            {id_.decode(): text.decode() for id_, text in zip(breakers[::2], breakers[1::2], strict=True)}
        )

    def _wants_permit(self, id_: str, score: Score, now: float) -> bool:
        """Ask for the permit of a half-open deployment; keep it while probing, give it up when no call came."""
        breaker = score.breaker
        if not breaker.trial or now < breaker.blocked_until:
            return False
        if breaker.permitted and not breaker.probing and now > self._permit_until.get(id_, 0.0):
            breaker.permitted = False
            return False
        return not breaker.permitted or breaker.probing

    def _report(self, now: float) -> dict[str, list[float]]:
        """By deployment: in flight, requests and tokens of the last minute, latency of streams and of answers (or 0)."""
        report: dict[str, list[float]] = {}
        for id_, score in self.board.scores.items():
            requests, tokens = score.minute.own(now)
            if score.running or requests:
                first, whole = round(score.streams.value, 4), round(score.answers.value, 4)
                report[id_] = [score.running, round(requests, 1), round(tokens), first, whole]
        return report

    def _read_reports(self, reports: list[dict[str, list[float]]]) -> None:
        now = self._now()
        for id_, score in self.board.scores.items():
            found = [report[id_] for report in reports if id_ in report]
            score.elsewhere = int(sum(each[0] for each in found))
            score.minute.elsewhere = (sum(each[1] for each in found), sum(each[2] for each in found))
            for latency, place in ((score.streams, 3), (score.answers, 4)):
                if not latency.samples and (known := [each[place] for each in found if each[place]]):
                    latency.adopt(sum(known) / len(known), now)

    def _read_breakers(self, breakers: dict[str, str]) -> None:
        now = self._now()
        for id_, text in breakers.items():
            opened, cooling, openings, cause, version = text.split(" ", 4)
            self._mirror(id_, int(opened), int(cooling), int(openings), cause, version)
        for id_, score in self.board.scores.items():
            breaker = score.breaker
            if id_ not in breakers and breaker.trial and now > breaker.blocked_until + DEAF and not breaker.probing:
                self._close_here(id_)  # somebody closed it, and the notice was lost

    async def _tell_tally(self) -> None:
        if not self.store.available:
            return
        slots: dict[int, list[tuple[Score, str, dict[str, int]]]] = {}
        for id_, score in self.board.scores.items():
            for slot, counts in score.tally.fresh.items():
                slots.setdefault(slot, []).append((score, id_, dict(counts)))
        for slot, told in slots.items():
            fields = [
                part for _, id_, counts in told for name, count in counts.items() for part in (f"{id_} {name}", count)
            ]
            await self.store.run(COUNT, [f"{TAG}:tally:{slot}"], [TALLY_MS, *fields])
            for score, _, counts in told:
                score.tally.told(slot, counts)

    async def _read_tally(self) -> None:
        """The last two slots; all of the day for deployments this process has not read yet."""
        if not self.store.available:
            return
        current = int(self._now() + self._ahead) // Tally.WIDTH
        new = any(score.tally.unread for score in self.board.scores.values())
        slots = range(current - (Tally.KEPT - 1 if new else 1), current + 1)
        answers = await asyncio.gather(*(self.store.execute("HGETALL", f"{TAG}:tally:{slot}") for slot in slots))
        for slot, answer in zip(slots, answers, strict=True):
            counts: dict[str, dict[str, int]] = {}
            for field, count in zip(answer[::2], answer[1::2], strict=True):
                id_, name = field.decode().split(" ", 1)
                counts.setdefault(id_, {})[name] = int(count)
            for id_, found in counts.items():
                if (score := self.board.scores.get(id_)) is not None:
                    score.tally.known[slot] = found
        for score in self.board.scores.values():
            score.tally.unread = False

    async def _sweep(self) -> None:
        """Know every deployment of the catalog, and only those."""
        catalog = self._catalog()
        self.board.keep(catalog)
        for entry in catalog.deployments.values():
            self.board.score(entry)

    # ---- clocks

    def _now(self) -> float:
        return self.board.clock()

    def _shared_ms(self, local: float) -> int:
        """Milliseconds of Redis for a time of ours; 0 stays 0."""
        return int((local + self._ahead) * 1000) if local else 0

    def _local(self, shared_ms: int) -> float:
        return shared_ms / 1000 - self._ahead if shared_ms else 0.0


sharing = Sharing(board, process_store)


async def open() -> None:
    """Start sharing this process's scores. After the bus, the store and the catalog."""
    await sharing.open(loading.current)


async def close() -> None:
    await sharing.close()
