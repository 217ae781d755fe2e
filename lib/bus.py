"""The bus of change notices: what one process changed, every process hears.

    publish_sync ──► own subscribers, at once
          └────────► Redis pub/sub ──► the other processes, a few milliseconds later
    poll (a version per topic) ──► whatever got lost: every 0.5 s without Redis, every 2 s with it

Pub/sub forgets what nobody heard, so a (re)connected process tells its subscribers that anything may have changed,
and the versions are polled in any case. A notice is a hint to read again, never the news itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis
import redis.asyncio
from django.conf import settings
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from lib import json
from lib.background import cancelled

log = logging.getLogger(__name__)

Callback = Callable[[str], None]
Poll = Callable[[], Mapping[str, int]]

POLL_ALONE = 0.5  # seconds between polls when no pub/sub reaches this process
POLL_BESIDE = 2.0  # seconds, as a backstop beside pub/sub
CONNECT_TIMEOUT = 1.0  # seconds: who saves a change never waits longer for Redis
PUBLISH_TIMEOUT = 0.5
PUBLISH_PAUSE = 2.0  # seconds without publishing after a failure: many changes in a row don't wait one by one
PING = 5.0  # seconds of silence before the subscription is tested
SILENCE = 10.0  # seconds of silence, pongs included, after which it counts as broken
BACKOFF = (0.1, 0.25, 0.5, 1.0, 2.0)  # seconds before each next attempt to reconnect; the last one repeats


class Bus:
    """One process's end of the bus. `redis_url` None: as the settings say."""

    def __init__(self, redis_url: str | None = None) -> None:
        self._url = redis_url
        self._origin = secrets.token_hex(8)
        self._callbacks: defaultdict[str, list[Callback]] = defaultdict(list)
        self._seen: dict[str, int] = {}
        self._lock = threading.Lock()
        self._client: redis.Redis | None = None
        self._publish_at = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self._poller: ThreadPoolExecutor | None = None
        self.connected = False

    def subscribe(self, topic: str, callback: Callback) -> Callable[[], None]:
        """Call `callback(subject)` on every notice; an empty subject says that anything may have changed.

        Callbacks run in whichever thread published or received, also without `open`: they are quick, never raise,
        and don't mind threads. Returns what ends the subscription.
        """
        self._callbacks[topic].append(callback)

        def unsubscribe() -> None:
            with contextlib.suppress(ValueError):
                self._callbacks[topic].remove(callback)

        return unsubscribe

    def publish_sync(self, topic: str, subject: str = "", version: int = 0) -> None:
        """Tell everybody. Never raises, and never waits long for Redis: polling is the net below.

        version: the topic's version after this change; 0: not known.
        """
        self._deliver(topic, subject, version)
        try:
            if client := self._publisher():
                client.publish(*self.message(topic, subject, version))
        except (redis.RedisError, OSError) as error:
            self._publish_at = time.monotonic() + PUBLISH_PAUSE
            log.warning("A notice about %s was not published (%s); it will be noticed by polling.", topic, error)

    def message(self, topic: str, subject: str, version: int = 0) -> tuple[str, bytes]:
        """Channel and payload of a PUBLISH, for who sends it with commands of its own: only other processes hear it."""
        said = {"from": self._origin, "topic": topic, "subject": subject, "version": version}
        return channel(), json.dumps(said)

    async def open(self, redis_url: str, poll: Poll | None = None) -> None:
        """Listen until `close`. redis_url "": no Redis. poll: a blocking function, asked in a thread of its own."""
        self._url = redis_url
        if redis_url:
            self._tasks.append(asyncio.create_task(self._listen(redis_url), name="bus.listen"))
        if poll is not None:
            self._poller = ThreadPoolExecutor(1, thread_name_prefix="bus-poll")
            self._tasks.append(asyncio.create_task(self._watch(poll, self._poller), name="bus.watch"))

    async def close(self) -> None:
        tasks, self._tasks = self._tasks, []
        await cancelled(*tasks)
        if poller := self._poller:
            self._poller = None
            await asyncio.to_thread(poller.shutdown)
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()
        self.connected = False

    # ---- what comes in

    async def _listen(self, url: str) -> None:
        """Stay subscribed, whatever happens to the connection."""
        failures = 0
        while True:
            try:
                async with (
                    redis.asyncio.from_url(
                        url, socket_connect_timeout=2.0, socket_timeout=5.0, retry=AsyncRetry(NoBackoff(), 0)
                    ) as client,
                    client.pubsub() as subscription,
                ):
                    await subscription.subscribe(channel())
                    self.connected, failures = True, 0
                    self._flush()
                    await self._receive(subscription)
            except (redis.RedisError, OSError, TimeoutError) as error:
                if self.connected or not failures:
                    log.warning("Change notices are out of reach (%s); polling meanwhile.", error)
            except Exception:
                log.exception("The listener for change notices failed; it starts again.")
            finally:
                self.connected = False
            await asyncio.sleep(BACKOFF[min(failures, len(BACKOFF) - 1)])
            failures += 1

    async def _receive(self, subscription: Any) -> None:
        """Deliver messages; raise when the connection has died, also when it died without a word."""
        loop = asyncio.get_running_loop()
        heard = pinged = loop.time()
        while True:
            message = await subscription.get_message(timeout=1.0)
            now = loop.time()
            if message is not None:
                heard = now
                if message["type"] == "message":
                    self._read(message["data"])
            elif now - heard > SILENCE:
                raise redis.ConnectionError("no answer to a ping")
            elif now - max(heard, pinged) > PING:
                pinged = now
                await subscription.ping()

    def _read(self, data: bytes) -> None:
        try:
            message = json.loads(data)
            origin, topic, subject = str(message["from"]), str(message["topic"]), str(message["subject"])
            version = int(message["version"])
        except (ValueError, KeyError, TypeError):
            log.warning("A message on the channel of change notices is not one; everything is read again.")
            self._flush()
            return
        if origin != self._origin:
            self._deliver(topic, subject, version)

    async def _watch(self, poll: Poll, executor: ThreadPoolExecutor) -> None:
        """Ask for the versions again and again; an unexpected one means that a notice was missed."""
        loop = asyncio.get_running_loop()
        failing = False
        while True:
            try:
                for topic, version in (await loop.run_in_executor(executor, poll)).items():
                    if self._seen.get(topic) != version:
                        self._seen[topic] = version
                        self._call(topic, "")
                failing = False
            except Exception as error:  # whatever is wrong with the database: the next poll will tell
                if not failing:
                    log.warning("Changes cannot be polled (%s).", error)
                failing = True
            await asyncio.sleep(POLL_BESIDE if self.connected else POLL_ALONE)

    # ---- what goes out

    def _deliver(self, topic: str, subject: str, version: int) -> None:
        """Call the subscribers. The next version in turn is then no news for the poll; a gap stays one."""
        self._call(topic, subject)
        if version and self._seen.get(topic) == version - 1:
            self._seen[topic] = version

    def _flush(self) -> None:
        for topic in list(self._callbacks):
            self._call(topic, "")

    def _call(self, topic: str, subject: str) -> None:
        for callback in list(self._callbacks[topic]):
            try:
                callback(subject)
            except Exception:  # one subscriber's fault must not keep the news from the others
                log.exception("A subscriber to %s failed.", topic)

    def _publisher(self) -> redis.Redis | None:
        url = settings.REDIS_URL if self._url is None else self._url
        if not url or time.monotonic() < self._publish_at:
            return None
        with self._lock:
            if self._client is None:
                self._client = redis.Redis.from_url(
                    url,
                    socket_connect_timeout=CONNECT_TIMEOUT,
                    socket_timeout=PUBLISH_TIMEOUT,
                    retry=Retry(NoBackoff(), 0),
                )
            return self._client


def channel() -> str:
    """Pub/sub knows no database numbers: two installations on one Redis are told apart by their pepper."""
    return f"gatehouse:notices:{hashlib.sha256(b'notices' + settings.GATEHOUSE_PEPPER.encode()).hexdigest()[:12]}"


_bus = Bus()
subscribe = _bus.subscribe
publish_sync = _bus.publish_sync
open = _bus.open
close = _bus.close


def default() -> Bus:
    """The process's own bus, for who takes a Bus as an argument."""
    return _bus
