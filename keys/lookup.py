"""From a secret to its key: what every call asks first, so it is answered from memory.

    cached()  microseconds, no I/O. None: it has to be looked up.
    find()    the same, with one look-up in the database when it must be.

How old an answer may be:
- a change is announced (lib.bus, topic "keys") and takes effect with the next call;
- an announcement that got lost is made up for after `key_cache_seconds`. A key in use is read again in the
  background at half that age, so a busy one never waits;
- while the database is out of reach, known keys are served for up to `key_stale_seconds`, except those that were
  announced as changed; unknown ones are "unavailable", never an authentication error.

Look-ups run in two threads of our own, each with a database connection that it gives back. Whatever waits is read
together: a flood of unknown keys costs a query per batch, not per key. Nothing here belongs to an event loop, so it
works the same under the server, under Django's test client, and without `open()`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from django.conf import settings
from django.db import Error

from keys import reading, secrets
from keys.context import Caller, KeyContext, Problem, Source
from keys.policy import is_over
from lib import bus
from lib.background import Background
from lib.bounded import forget_oldest

log = logging.getLogger(__name__)

Answer = KeyContext | Problem
Load = Callable[[list[str]], Mapping[str, Answer]]
Touch = Callable[[Mapping[str, float], Mapping[str, float]], None]

BATCH: Final = 200  # look-ups in one query
THREADS: Final = 2
REFUSED_SECONDS: Final = 10.0  # how long "nobody's", "revoked" and "expired" are remembered
REFUSED_SIZE: Final = 10_000
KEPT_SIZE: Final = 20_000
WAITING_SIZE: Final = 5_000  # look-ups in the queue; beyond that the answer is "unavailable"
PATIENCE: Final = 4.0  # seconds a call waits for the look-up of a key it knows nothing about
PATIENCE_STALE: Final = 0.5  # seconds it waits when an older answer is at hand
ATTEMPTS: Final = 3  # readings when changes are announced while we read
OUTAGE_PAUSE: Final = 1.0  # seconds between attempts while the database is out of reach
USED_SECONDS: Final = 30.0  # how often last_used_at is written


@dataclass(slots=True)
class _Kept:
    """A context in memory. suspect: anything may have changed, so ask before serving it again."""

    context: KeyContext
    loaded: float
    suspect: bool = False


class Lookup:
    """One process's memory of keys. Ages are monotonic, expiry is wall clock. fresh, stale: seconds, None: as set."""

    def __init__(
        self,
        *,
        notices: bus.Bus | None = None,
        load: Load = reading.load,
        touch: Touch = reading.touch,
        fresh: float | None = None,
        stale: float | None = None,
    ) -> None:
        self._load = load
        self._touch = touch
        self._fresh_seconds: float = settings.GATEHOUSE.key_cache_seconds if fresh is None else fresh
        self._stale_seconds: float = settings.GATEHOUSE.key_stale_seconds if stale is None else stale
        self._kept: dict[str, _Kept] = {}
        self._refused: dict[str, tuple[Problem, float]] = {}
        self._asked: dict[str, Future[Answer | None]] = {}  # in the queue or under way
        self._queue: deque[str] = deque()
        self._running = 0
        self._generation = 0
        self._down = False  # the last attempt found no database
        self._probe_at = 0.0
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._ticking = Background("keys.lookup.last_used", self._tick, every=USED_SECONDS, first=USED_SECONDS)
        self._used: dict[str, tuple[str, float]] = {}
        self._written = time.monotonic()
        self._unsubscribe = (notices or bus.default()).subscribe(
            "keys", lambda subject: self.invalidate(subject or None)
        )

    # ---- the question

    def cached(self, secret: str, source: Source, address: str) -> Caller | None:
        """The answer from memory, or None: it must be looked up. Starts a refresh when the answer gets old."""
        if not secret:
            return Caller(None, "missing", "none", address)
        fingerprint = secrets.fingerprint(secret)
        if fingerprint not in self._kept and not secrets.well_formed(secret):
            return Caller(None, "malformed", source, address)
        return self._remembered(fingerprint, source, address)

    async def find(self, secret: str, source: Source, address: str) -> Caller:
        """The answer, from the database if it must be. Never raises; "unavailable" when nobody can tell now."""
        if (caller := self.cached(secret, source, address)) is not None:
            return caller
        fingerprint = secrets.fingerprint(secret)
        answer = await self._answer(fingerprint)
        if answer is None and (kept := self._kept.get(fingerprint)) is not None:
            age = time.monotonic() - kept.loaded
            answer = kept.context if age < self._stale_seconds else None
        if isinstance(answer, KeyContext):
            return self._caller(answer, source, address)
        return Caller(None, answer or "unavailable", source, address)

    def _remembered(self, fingerprint: str, source: Source, address: str) -> Caller | None:
        now = time.monotonic()
        kept = self._kept.get(fingerprint)
        if kept is None:
            refused = self._refused.get(fingerprint)
            return Caller(None, refused[0], source, address) if refused is not None and now < refused[1] else None
        age, fresh = now - kept.loaded, self._fresh_seconds
        if self._down:
            if age >= self._stale_seconds:
                return None
            if now >= self._probe_at:
                self._probe(fingerprint, now)
        elif kept.suspect or age >= fresh:
            return None
        elif age >= fresh / 2:
            self._ask(fingerprint)
        return self._caller(kept.context, source, address)

    def _caller(self, context: KeyContext, source: Source, address: str) -> Caller:
        """Expiry is looked at with every use: no announcement tells that it has come."""
        if (context.expires_at is not None or context.secret_until is not None) and is_over(context, time.time()):
            return Caller(None, "expired", source, address)
        return Caller(context, "", source, address)

    async def _answer(self, fingerprint: str) -> Answer | None:
        """What the database says about it; None when it does not say so in time."""
        now = time.monotonic()
        if self._down and now < self._probe_at:
            return None
        asked = self._probe(fingerprint, now) if self._down else self._ask(fingerprint)
        if asked is None:
            return None
        try:
            patience = PATIENCE_STALE if fingerprint in self._kept else PATIENCE
            return await asyncio.wait_for(asyncio.wrap_future(asked), patience)
        except TimeoutError:
            self._went_down()
            return None

    # ---- what makes it forget

    def invalidate(self, key_id: str | None = None) -> None:
        """A key was changed: forget it. None: anything may have changed, ask again before serving any."""
        with self._lock:
            self._generation += 1
            self._refused.clear()
            if key_id is None:
                for kept in self._kept.values():
                    kept.suspect = True
            else:
                for fingerprint in [each for each, kept in self._kept.items() if kept.context.key_id == key_id]:
                    del self._kept[fingerprint]

    # ---- the look-up

    def _ask(self, fingerprint: str) -> Future[Answer | None] | None:
        """A look-up of this fingerprint, the running one if there is one. None: too many wait already."""
        with self._lock:
            if (asked := self._asked.get(fingerprint)) is not None:
                return asked
            known = fingerprint in self._kept
            if len(self._queue) >= WAITING_SIZE and not known:
                return None
            asked = Future()
            asked.set_running_or_notify_cancel()  # a caller that leaves must not cancel it for the others
            self._asked[fingerprint] = asked
            if known:
                self._queue.appendleft(fingerprint)  # before a flood of unknown ones
            else:
                self._queue.append(fingerprint)
            if self._running < THREADS:
                self._running += 1
                self._threads().submit(self._work)
            return asked

    def _probe(self, fingerprint: str, now: float) -> Future[Answer | None] | None:
        """During an outage one look-up at a time finds out whether it is over."""
        self._probe_at = now + OUTAGE_PAUSE
        return self._ask(fingerprint)

    def _went_down(self) -> None:
        self._down = True
        self._probe_at = time.monotonic() + OUTAGE_PAUSE

    def _work(self) -> None:
        """Look up what waits, batch by batch, until nothing does. Runs in a thread of ours."""
        while batch := self._next():
            for attempt in range(1, ATTEMPTS + 1):
                generation, began = self._generation, time.monotonic()
                found = self._read(batch)
                if self._settle(batch, found, began, generation, last=attempt == ATTEMPTS):
                    break

    def _next(self) -> list[str]:
        with self._lock:
            batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
            if not batch:
                self._running -= 1
            return batch

    def _settle(
        self, batch: list[str], found: Mapping[str, Answer] | None, began: float, generation: int, *, last: bool
    ) -> bool:
        """Keep what was found and tell those who wait. False: a change was announced meanwhile, so read again."""
        with self._lock:
            outdated = generation != self._generation
            if found is None:
                self._went_down()
            elif outdated and not last:
                return False
            else:
                self._down = False
                self._keep(batch, found, began, suspect=outdated)
            asked = [self._asked.pop(fingerprint) for fingerprint in batch]
        for fingerprint, future in zip(batch, asked, strict=True):
            future.set_result(None if found is None else found.get(fingerprint, "unknown"))
        return True

    def _read(self, batch: list[str]) -> Mapping[str, Answer] | None:
        """What the database says, None when it cannot. A second try, as the first may meet a dead connection."""
        for _ in range(2):
            try:
                return self._load(batch)
            except Exception as error:  # whatever it is, those who wait must hear that nobody can tell
                log.warning("Keys cannot be looked up: %s", type(error).__name__, exc_info=not isinstance(error, Error))
        return None

    def _keep(self, batch: list[str], found: Mapping[str, Answer], began: float, *, suspect: bool) -> None:
        """Under the lock: remember the answers, as old as the moment they were asked for."""
        for fingerprint in batch:
            self._kept.pop(fingerprint, None)
            self._refused.pop(fingerprint, None)
            answer = found.get(fingerprint, "unknown")
            if isinstance(answer, KeyContext):
                self._kept[fingerprint] = _Kept(answer, began, suspect)
            elif not suspect:
                self._refused[fingerprint] = (answer, began + REFUSED_SECONDS)
        forget_oldest(self._refused, REFUSED_SIZE)
        forget_oldest(self._kept, KEPT_SIZE)

    def _threads(self) -> ThreadPoolExecutor:
        if self._executor is None:
            self._executor = ThreadPoolExecutor(THREADS + 1, thread_name_prefix="keys")
        return self._executor

    # ---- when a key was last used

    def mark_used(self, context: KeyContext) -> None:
        """Note that the key answered a call. In memory; written in the background, at most every 30 s."""
        self._used[context.secret_id] = (context.key_id, time.time())
        if time.monotonic() - self._written >= USED_SECONDS:
            self.write_used()

    def write_used(self) -> None:
        """Hand what was noted to a thread that writes it."""
        self._written = time.monotonic()
        if self._used:
            used, self._used = self._used, {}
            with self._lock:
                self._threads().submit(self._write_used, used)

    def _write_used(self, used: Mapping[str, tuple[str, float]]) -> None:
        keys: dict[str, float] = {}
        for key_id, at in used.values():
            keys[key_id] = max(at, keys.get(key_id, 0.0))
        try:
            self._touch(keys, {secret_id: at for secret_id, (_, at) in used.items()})
        except Exception as error:  # a display value: the next use writes it again
            log.warning("The last use of %d keys could not be written: %s", len(keys), type(error).__name__)

    # ---- its life in a server

    async def open(self) -> None:
        await self._ticking.open()

    async def close(self) -> None:
        """Write what is noted and let the threads end. It can be used again afterwards."""
        await self._ticking.close()
        self.write_used()
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            await asyncio.to_thread(executor.shutdown)

    async def _tick(self) -> None:
        self.write_used()

    def detach(self) -> None:
        """Hear no more notices: for one that is not the process's own."""
        self._unsubscribe()


_lookup = Lookup()
cached = _lookup.cached
find = _lookup.find
invalidate = _lookup.invalidate
mark_used = _lookup.mark_used
open = _lookup.open
close = _lookup.close
