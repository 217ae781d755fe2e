"""Limits across processes, and through the end of one. Real processes, a real Valkey."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from keys.context import KeyContext
from keys.limits.redis import RedisLimiter
from lib.store import Store
from tests.keys.limiting import admit, key_with, rule, usage
from tests.valkey import OwnValkey


class Other:
    """A second process; see limiting_process.py."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def ask(self, do: str, key: KeyContext, **more: Any) -> str:
        order = {"do": do, "organization": key.organization_id, "rules": [asdict(each) for each in key.limits], **more}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        await self.process.stdin.drain()
        return await self.says()

    async def says(self) -> str:
        assert self.process.stdout is not None
        async with asyncio.timeout(30):
            return (await self.process.stdout.readline()).decode().strip()


@asynccontextmanager
async def another(url: str) -> AsyncIterator[Other]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.keys.limiting_process", url,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    other = Other(process)
    try:
        assert await other.says() == "ready"
        yield other
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture
async def url(tmp_path: Path) -> AsyncIterator[str]:
    """A Valkey of its own: in the run's there may be other dead."""
    server = OwnValkey(tmp_path)
    await server.start()
    yield server.url
    await server.stop()


@pytest.fixture
async def impatient(url: str) -> AsyncIterator[RedisLimiter]:
    """A limiter that takes a process for dead after two seconds."""
    store = Store()
    await store.open(url)
    limiter = RedisLimiter(store, lease=2, beat=0.1)
    await limiter.open()
    yield limiter
    await limiter.close()
    await store.close()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 - what is waited for happens in another process
            await asyncio.sleep(0.02)


async def test_of_1000_calls_over_four_processes_exactly_100_pass_in_a_minute(url: str) -> None:
    key = key_with(rule("requests", "minute", 100))
    async with AsyncExitStack() as stack:
        others = await asyncio.gather(*(stack.enter_async_context(another(url)) for _ in range(4)))
        passed = await asyncio.gather(*(other.ask("offer", key, calls=250) for other in others))
    assert sum(map(int, passed)) == 100


async def test_what_a_killed_process_held_is_given_back_if_no_upstream_heard_of_it(
    url: str, impatient: RedisLimiter
) -> None:
    key = key_with(rule("spend", "month", 10_000), rule("concurrent", "minute", 5), rule("requests", "day", 5))
    async with another(url) as other:
        await other.ask("hold", key, reached=False)
        assert await usage(impatient, key, time.time()) == [(0, 1000), (0, 1), (1, 0)]
        other.process.kill()
        await until(lambda: impatient.reaped > 0)
    assert await usage(impatient, key, time.time()) == [(0, 0), (0, 0), (0, 0)]


async def test_what_a_killed_process_held_is_charged_if_an_upstream_heard_of_it(
    url: str, impatient: RedisLimiter
) -> None:
    key = key_with(rule("spend", "month", 10_000), rule("concurrent", "minute", 5), rule("requests", "day", 5))
    async with another(url) as other:
        await other.ask("hold", key, reached=True)
        other.process.kill()
        await until(lambda: impatient.reaped > 0)
    assert await usage(impatient, key, time.time()) == [(1000, 0), (0, 0), (1, 0)]


async def test_a_process_that_lives_keeps_what_it_holds(url: str, impatient: RedisLimiter) -> None:
    """The other one is killed, so that somebody is reaped at all."""
    mine = key_with(rule("spend", "month", 10_000))
    hold = await admit(impatient, mine, time.time(), spend=700)
    async with another(url) as other:
        await other.ask("hold", key_with(rule("spend", "month", 10_000)), reached=False)
        other.process.kill()
        await until(lambda: impatient.reaped > 0)
    assert await usage(impatient, mine, time.time()) == [(0, 700)]
    impatient.release(hold)
