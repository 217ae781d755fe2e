"""The store: this process's connection to Redis for commands. Fast, or not at all.

    run, execute ──► pending ──► one pipeline per turn of the event loop ──► a lane (connection) ──► Redis
    submit ────────► outbox  ──┘

A pipeline has 50 ms and no retry. A broken connection, or three pipelines in a row that took too long, close the
store: everything raises StoreDown at once, and a background task (never a call) looks whether Redis is back.
Commands of Redis 6.2 and Lua only. Keys that one script touches share a hash tag, so that a cluster can serve them.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis.asyncio
from redis import exceptions
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

log = logging.getLogger(__name__)

Value = str | bytes | int | float
Callback = Callable[[], None]

TIMEOUT = 0.05  # seconds for one pipeline
LATE = 0.02  # seconds; a timer that fires later than this was held up by our own event loop, not by Redis
SLOW_IN_A_ROW = 3  # pipelines
LANES = 4  # connections
BATCH = 256  # commands in a pipeline
OUTBOX = 10_000  # submitted commands that may wait
PROBE_FIRST, PROBE_MOST, PROBE_TIMEOUT = 0.1, 1.0, 1.0  # seconds
GOODBYE = 1.0  # seconds that closing waits for submitted commands

# Redis answered, but it cannot do its work: the same as not being there.
UNABLE = (
    exceptions.ReadOnlyError,
    exceptions.OutOfMemoryError,
    exceptions.NoPermissionError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
)


class StoreDown(Exception):
    """Redis is not there, not configured, or too slow. The command may or may not have been executed."""


class StoreRefused(Exception):
    """Redis understood the command and says that it is wrong: a fault of ours."""


@dataclass(frozen=True)
class Script:
    """A Lua script, sent by its hash. Times come from redis.call('TIME') or as arguments, never both."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest())


@dataclass(slots=True)
class Order:
    """One command on its way. future: who waits for the answer; None for a submitted one."""

    command: tuple[Value, ...]
    script: Script | None = None
    future: asyncio.Future[Any] | None = None


class Store:
    """One process's connection to Redis. Belongs to the event loop that opened it."""

    def __init__(self) -> None:
        self.url = ""
        self.timeout = 0.0
        self.up = False
        self.dropped = 0  # submitted commands lost to a full outbox
        self.failures = 0  # pipelines that failed since the start
        self._pending: deque[Order] = deque()
        self._outbox: deque[Order] = deque()
        self._idle: deque[AbstractConnection] = deque()  # in turn, so that none is silent for long
        self._lanes: list[AbstractConnection] = []
        self._running: set[asyncio.Task[None]] = set()
        self._flushing = False
        self._slow = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: redis.asyncio.Redis | None = None
        self._prober: asyncio.Task[None] | None = None
        self._on_down: list[Callback] = []
        self._on_up: list[Callback] = []

    @property
    def available(self) -> bool:
        """May a command be tried now? Always False without a Redis."""
        return self.up

    def on_down(self, callback: Callback) -> None:
        """Call it, in the event loop, whenever Redis is lost."""
        self._on_down.append(callback)

    def on_up(self, callback: Callback) -> None:
        """Call it, in the event loop, whenever Redis is there again (and when it first is)."""
        self._on_up.append(callback)

    async def open(self, url: str, timeout: float = 0.0) -> None:
        """Connect. Returns also when Redis does not answer: the background task goes on looking for it.

        timeout: seconds for one pipeline, TIMEOUT when 0.
        """
        self.url = url
        self.timeout = timeout
        self._loop = asyncio.get_running_loop()
        if not url:
            return
        self._client = redis.asyncio.from_url(
            url, protocol=2, socket_timeout=None, socket_connect_timeout=PROBE_TIMEOUT, retry=Retry(NoBackoff(), 0)
        )
        make = self._client.connection_pool.make_connection
        self._lanes = [make() for _ in range(LANES)]  # type: ignore[no-untyped-call]  # redis-py annotates only parts
        if await self._reachable():
            self._rise()
        else:
            log.warning("Redis does not answer; going on without it and looking for it in the background.")
            self._look_for_it()

    async def close(self) -> None:
        """Send what was submitted, as long as that takes less than a second, and disconnect."""
        if self.up:
            deadline = asyncio.get_running_loop().time() + GOODBYE
            while (
                (self._pending or self._outbox or self._running)
                and self.up
                and asyncio.get_running_loop().time() < deadline
            ):
                self._schedule()
                await asyncio.sleep(0.005)
        prober, self._prober = self._prober, None
        if prober is not None:
            prober.cancel()
            await asyncio.gather(prober, return_exceptions=True)
        self.up = False
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        self._fail(list(self._pending))
        self._pending.clear()
        self._outbox.clear()
        for lane in self._lanes:
            await lane.disconnect(nowait=True)
        self._lanes = []
        self._idle.clear()
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    # ---- what the rooms call

    async def run(self, script: Script, keys: Sequence[Value] = (), args: Sequence[Value] = ()) -> Any:
        """The script's answer (bytes, int, list, None). Raises StoreDown or StoreRefused."""
        return await self._ordered(("EVALSHA", script.sha, len(keys), *keys, *args), script)

    def send(self, script: Script, keys: Sequence[Value] = (), args: Sequence[Value] = ()) -> asyncio.Future[Any]:
        """`run` for those who do not wait: sent in the order of the calls. Raises StoreDown when nothing can be sent;
        the future may carry it too."""
        return self._order(("EVALSHA", script.sha, len(keys), *keys, *args), script)

    async def execute(self, *command: Value) -> Any:
        """The answer to one command. Raises StoreDown or StoreRefused."""
        return await self._ordered(command, None)

    def submit(self, *command: Value) -> None:
        """Send a command when there is room, and forget it. Never waits, never raises.

        It may be sent twice (the connection broke before the answer) or never (the outbox is full, which is counted;
        without a Redis, always): only for what is harmless either way.
        """
        self._post(Order(command))

    def submit_script(self, script: Script, keys: Sequence[Value] = (), args: Sequence[Value] = ()) -> None:
        """`submit` for a script."""
        self._post(Order(("EVALSHA", script.sha, len(keys), *keys, *args), script))

    # ---- the batcher

    async def _ordered(self, command: tuple[Value, ...], script: Script | None) -> Any:
        return await self._order(command, script)

    def _order(self, command: tuple[Value, ...], script: Script | None) -> asyncio.Future[Any]:
        if not self.up or self._loop is None:
            raise StoreDown("Redis is out of reach.")
        future: asyncio.Future[Any] = self._loop.create_future()
        self._pending.append(Order(command, script, future))
        self._schedule()
        return future

    def _post(self, order: Order) -> None:
        if not self.url or self._loop is None:
            return
        if len(self._outbox) >= OUTBOX:
            self.dropped += 1
            return
        self._outbox.append(order)
        if self.up:
            self._schedule()

    def _schedule(self) -> None:
        """Flush once, at the end of this turn of the loop: what comes until then shares the pipeline."""
        if not self._flushing and self._loop is not None:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        while self.up and self._idle and (self._pending or self._outbox):
            orders = [self._pending.popleft() for _ in range(min(BATCH, len(self._pending)))]
            orders += [self._outbox.popleft() for _ in range(min(BATCH - len(orders), len(self._outbox)))]
            task = asyncio.get_running_loop().create_task(self._pipeline(self._idle.popleft(), orders))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _pipeline(self, lane: AbstractConnection, orders: list[Order]) -> None:
        """Send all orders over one lane and hand out the answers."""
        try:
            answers = await self._exchange(lane, [order.command for order in orders])
            unknown = [at for at, answer in enumerate(answers) if isinstance(answer, exceptions.NoScriptError)]
            if unknown:  # Redis was restarted: send the text once, it remembers
                texts = [self._with_text(orders[at]) for at in unknown]
                for at, answer in zip(unknown, await self._exchange(lane, texts), strict=True):
                    answers[at] = answer
        except TimeoutError:
            self._slow += 1
            self._broken(orders, lost=self._slow >= SLOW_IN_A_ROW, why="it took longer than 50 ms")
        except (exceptions.RedisError, OSError) as error:
            self._broken(orders, lost=True, why=str(error))
        except asyncio.CancelledError:
            self._fail(orders)
            raise
        else:
            self._slow = 0
            self._hand_out(orders, answers)
        finally:
            if lane in self._lanes:
                self._idle.append(lane)
            if self._pending or (self._outbox and self.up):
                self._schedule()

    async def _exchange(self, lane: AbstractConnection, commands: list[tuple[Value, ...]]) -> list[Any]:
        """Every answer of one pipeline; what Redis refused is an exception among them. Cut off in the middle: closed."""
        loop = asyncio.get_running_loop()
        whole = False
        timer = None
        try:
            async with asyncio.timeout(None) as limit:
                timer = Timer(loop, limit, self.timeout or TIMEOUT)
                await lane.send_packed_command(lane.pack_commands(commands), check_health=False)
                answers = [await self._answer(lane) for _ in commands]
                whole = True
                return answers
        finally:
            if timer is not None:
                timer.cancel()
            if not whole:
                await lane.disconnect(nowait=True)

    async def _answer(self, lane: AbstractConnection) -> Any:
        try:
            return await lane.read_response(disconnect_on_error=False)
        except exceptions.ResponseError as refused:
            return refused

    def _hand_out(self, orders: list[Order], answers: list[Any]) -> None:
        unable = next((answer for answer in answers if isinstance(answer, UNABLE)), None)
        for order, answer in zip(orders, answers, strict=True):
            if order.future is None:
                if isinstance(answer, UNABLE):
                    self._outbox.appendleft(order)
                elif isinstance(answer, exceptions.ResponseError):
                    log.error("Redis refused a command: %s", answer)
            elif order.future.done():  # the caller was cancelled
                continue
            elif isinstance(answer, UNABLE):
                order.future.set_exception(StoreDown(str(answer)))
            elif isinstance(answer, exceptions.ResponseError):
                order.future.set_exception(StoreRefused(str(answer)))
            else:
                order.future.set_result(answer)
        if unable is not None:
            self._fall(str(unable))

    def _with_text(self, order: Order) -> tuple[Value, ...]:
        assert order.script is not None, "only a script can be unknown"
        return ("EVAL", order.script.text, *order.command[2:])

    # ---- down and up

    def _broken(self, orders: list[Order], *, lost: bool, why: str) -> None:
        self.failures += 1
        self._fail([order for order in orders if order.future is not None])
        submitted = [order for order in orders if order.future is None]
        room = max(0, OUTBOX - len(self._outbox))
        self.dropped += max(0, len(submitted) - room)
        self._outbox.extendleft(reversed(submitted[:room]))
        if lost:
            self._fall(why)

    def _fail(self, orders: list[Order]) -> None:
        for order in orders:
            if order.future is not None and not order.future.done():
                order.future.set_exception(StoreDown("Redis is out of reach."))

    def _fall(self, why: str) -> None:
        if not self.up:
            return
        self.up = False
        log.warning("Redis is out of reach (%s); going on without it.", why)
        waiting = list(self._pending)
        self._pending.clear()
        self._fail(waiting)
        for callback in list(self._on_down):
            called(callback)
        self._look_for_it()

    def _rise(self) -> None:
        self._slow = 0
        self.up = True
        self._idle = deque(self._lanes)
        for callback in list(self._on_up):
            called(callback)
        self._schedule()

    def _look_for_it(self) -> None:
        self._prober = asyncio.get_running_loop().create_task(self._probe(), name="store.probe")

    async def _probe(self) -> None:
        pause = PROBE_FIRST
        while True:
            await asyncio.sleep(pause)
            await asyncio.gather(*self._running, return_exceptions=True)  # their lanes are ours again
            if await self._reachable():
                log.warning("Redis is back.")
                self._rise()
                return
            pause = min(pause * 2, PROBE_MOST)

    async def _reachable(self) -> bool:
        """Connect every lane anew and ping over it; so no call ever waits for a connection to be made."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                for lane in self._lanes:
                    await lane.disconnect(nowait=True)
                    await lane.connect()  # type: ignore[no-untyped-call]  # redis-py annotates only parts
                    await lane.send_command("PING", check_health=False)
                    await lane.read_response()
        except (exceptions.RedisError, OSError, TimeoutError):
            for lane in self._lanes:
                await lane.disconnect(nowait=True)
            return False
        return True


class Timer:
    """The time of one pipeline, given again once when our own loop, not Redis, was what took so long."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limit: asyncio.Timeout, seconds: float) -> None:
        self._loop = loop
        self._seconds = seconds
        self._limit = limit
        self._again = False
        self._set()

    def _set(self) -> None:
        self._due = self._loop.time() + self._seconds
        self._handle = self._loop.call_at(self._due, self._fire)

    def _fire(self) -> None:
        if self._loop.time() - self._due > LATE and not self._again:
            self._again = True
            self._set()
        else:
            self._limit.reschedule(self._loop.time())

    def cancel(self) -> None:
        self._handle.cancel()


def called(callback: Callback) -> None:
    try:
        callback()
    except Exception:  # one listener's fault must not keep the news from the others
        log.exception("A listener to the state of Redis failed.")


store = Store()
