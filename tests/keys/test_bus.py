"""The bus of change notices: what it delivers, what it survives, what it never does to who publishes."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import pytest

from lib.bus import Bus
from tests.keys.relay import Cable

pytestmark = pytest.mark.usefixtures("no_outside_network")


class Heard:
    """A subscriber that can be waited for."""

    def __init__(self) -> None:
        self.subjects: list[str] = []
        self._news = threading.Condition()

    def __call__(self, subject: str) -> None:
        with self._news:
            self.subjects.append(subject)
            self._news.notify_all()

    async def comes(self, subject: str, seconds: float = 20) -> bool:
        return await asyncio.to_thread(self._wait, subject, seconds)

    def _wait(self, subject: str, seconds: float) -> bool:
        with self._news:
            return self._news.wait_for(lambda: subject in self.subjects, seconds)

    def forget(self) -> None:
        with self._news:
            self.subjects.clear()


@asynccontextmanager
async def opened(url: str, poll: Callable[[], Mapping[str, int]] | None = None) -> AsyncIterator[tuple[Bus, Heard]]:
    bus, heard = Bus(), Heard()
    bus.subscribe("keys", heard)
    await bus.open(url, poll)
    try:
        if url:
            assert await heard.comes("")  # connected: anything may have changed before
            heard.forget()
        yield bus, heard
    finally:
        await bus.close()


def test_a_notice_reaches_the_own_subscribers_at_once_without_open() -> None:
    bus, heard, other = Bus(""), Heard(), Heard()
    bus.subscribe("keys", heard)
    bus.subscribe("catalog", other)
    bus.publish_sync("keys", "k1")
    assert (heard.subjects, other.subjects) == (["k1"], [])


def test_who_has_unsubscribed_hears_nothing_more() -> None:
    bus, heard = Bus(""), Heard()
    bus.subscribe("keys", heard)()
    bus.publish_sync("keys", "k1")
    assert heard.subjects == []


def test_a_subscriber_that_fails_does_not_keep_the_news_from_the_others() -> None:
    bus, heard = Bus(""), Heard()

    def failing(subject: str) -> None:
        raise ValueError(subject)

    bus.subscribe("keys", failing)
    bus.subscribe("keys", heard)
    bus.publish_sync("keys", "k1")
    assert heard.subjects == ["k1"]


async def test_a_notice_reaches_other_processes_over_redis_and_its_sender_once(redis_url: str) -> None:
    async with opened(redis_url) as (sender, own), opened(redis_url) as (_, other):
        await asyncio.to_thread(sender.publish_sync, "keys", "k1")
        assert await other.comes("k1")
        await asyncio.to_thread(sender.publish_sync, "keys", "k2")
        assert await other.comes("k2")
        assert own.subjects == ["k1", "k2"]


async def test_one_that_only_publishes_needs_no_open(redis_url: str) -> None:
    async with opened(redis_url) as (_, heard):
        shell = Bus(redis_url)
        await asyncio.to_thread(shell.publish_sync, "keys", "k1")
        assert await heard.comes("k1")
        await shell.close()


async def test_a_lost_connection_comes_back_and_everything_is_read_again(redis_url: str) -> None:
    with Cable.to(redis_url) as cable:
        async with opened(cable.url) as (bus, heard):
            cable.cut()
            await until(lambda: not bus.connected)
            cable.mend()
            assert await heard.comes("")
            heard.forget()
            shell = Bus(redis_url)
            await asyncio.to_thread(shell.publish_sync, "keys", "k1")
            assert await heard.comes("k1")
            await shell.close()


async def test_without_redis_a_raised_version_is_noticed_by_polling() -> None:
    versions = {"keys": 1}
    async with opened("", lambda: dict(versions)) as (_, heard):
        assert await heard.comes("")
        heard.forget()
        versions["keys"] = 2
        assert await heard.comes("")


async def test_a_version_that_came_with_its_notice_is_no_news_to_the_poll() -> None:
    """Otherwise every change of one key would make all of them be read again."""
    polls = threading.Semaphore(0)
    versions = {"keys": 1}

    def poll() -> Mapping[str, int]:
        polls.release()
        return dict(versions)

    async with opened("", poll) as (bus, heard):
        assert await heard.comes("")
        heard.forget()
        versions["keys"] = 2
        bus.publish_sync("keys", "k1", 2)
        for _ in range(3):
            await asyncio.to_thread(polls.acquire, timeout=20)
        assert heard.subjects == ["k1"]
        versions["keys"] = 4
        bus.publish_sync("keys", "k2", 4)  # the third one was missed
        assert await heard.comes("")


async def test_a_poll_that_fails_is_asked_again() -> None:
    failures = iter([OSError("gone"), OSError("gone")])

    def poll() -> Mapping[str, int]:
        for error in failures:
            raise error
        return {"keys": 1}

    async with opened("", poll) as (_, heard):
        assert await heard.comes("")


@pytest.mark.parametrize("silent", [True, False], ids=["silent", "refusing"])
def test_who_publishes_is_not_held_up_by_a_dead_redis(silent: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
        if not silent:
            nobody.close()
        bus, heard = Bus(f"redis://127.0.0.1:{port}/0"), Heard()
        bus.subscribe("keys", heard)
        began = time.monotonic()
        bus.publish_sync("keys", "k1")
        assert time.monotonic() - began < 5  # its own time-outs are fractions of a second
        assert heard.subjects == ["k1"]
        asyncio.run(bus.close())


async def test_rubbish_on_the_channel_makes_everybody_read_again(redis_url: str) -> None:
    from lib.bus import channel  # noqa: PLC0415 - beside the one use

    async with opened(redis_url) as (bus, heard):
        client = bus._publisher()
        assert client is not None
        await asyncio.to_thread(client.publish, channel(), b"\xff{")
        assert await heard.comes("")


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)
