"""Limits while Redis is away: stopped, standing still, back with and without its memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from keys.limits import scripts
from keys.limits.base import LimitReached, LimitsUnavailable, Used
from keys.limits.redis import RedisLimiter
from lib.store import Store
from tests.keys.limiting import admit, ask, key_with, rule, usage
from tests.keys.test_limits_processes import until
from tests.valkey import OwnValkey


@pytest.fixture
async def valkey(tmp_path: Path) -> AsyncIterator[OwnValkey]:
    server = OwnValkey(tmp_path)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def store(valkey: OwnValkey) -> AsyncIterator[Store]:
    store = Store()
    await store.open(valkey.url)
    yield store
    await store.close()


@pytest.fixture
async def limiter(store: Store) -> AsyncIterator[RedisLimiter]:
    limiter = RedisLimiter(store)
    await limiter.open()
    yield limiter
    await limiter.close()


class Doubts:
    """How often the limiter said that counters may differ from the ledger."""

    def __init__(self, limiter: RedisLimiter) -> None:
        self.count = 0
        limiter.on_doubt = self._more

    def _more(self, died: bool) -> None:
        self.count += 1


async def test_without_redis_a_process_goes_on_with_what_was_left(
    valkey: OwnValkey, store: Store, limiter: RedisLimiter
) -> None:
    key, now = key_with(rule("spend", "month", 100)), time.time()
    limiter.settle(await admit(limiter, key, now, spend=70), Used(0, 70))
    await valkey.stop()
    hold = await admit(limiter, key, now, spend=20)
    assert hold.degraded
    with pytest.raises(LimitReached):
        await admit(limiter, key, now, spend=20)
    limiter.settle(hold, Used(0, 5))
    assert (await admit(limiter, key, now, spend=20)).degraded
    await valkey.start()
    await until(lambda: store.available)


async def test_each_of_several_processes_takes_its_share(valkey: OwnValkey, limiter: RedisLimiter) -> None:
    key, now = key_with(rule("requests", "minute", 10)), time.time()
    other_store = Store()
    await other_store.open(valkey.url)
    other = RedisLimiter(other_store, beat=0.05)
    await other.open()
    await admit(other, key, now)
    await until(lambda: other._share.processes == 2)
    await valkey.stop()
    passed = 0
    with pytest.raises(LimitReached):
        for _ in range(10):
            await admit(other, key, now)
            passed += 1
    assert passed == 4, "half of the nine that were left, in whole calls"
    await other.close()
    await other_store.close()


async def test_a_key_that_denies_is_refused_until_redis_is_back(
    valkey: OwnValkey, store: Store, limiter: RedisLimiter
) -> None:
    key, now = key_with(rule("requests", "day", 5), outage_policy="deny"), time.time()
    await admit(limiter, key, now)
    await valkey.stop()
    with pytest.raises(LimitsUnavailable):
        await admit(limiter, key, now)
    await valkey.start()
    await until(lambda: limiter._ready)
    assert not (await admit(limiter, key, now)).degraded


async def test_redis_back_without_its_memory_knows_what_runs_and_what_ended_meanwhile(
    valkey: OwnValkey, store: Store, limiter: RedisLimiter
) -> None:
    key, now, doubts = (
        key_with(rule("spend", "month", 100), rule("concurrent", "minute", 9)),
        time.time(),
        Doubts(limiter),
    )
    before, ended = await admit(limiter, key, now, spend=10), await admit(limiter, key, now, spend=11)
    await valkey.stop()
    during = await admit(limiter, key, now, spend=12)
    limiter.settle(ended, Used(0, 3))  # only the ledger can tell of this one
    await valkey.start()
    await until(lambda: doubts.count > 0)
    assert await usage(limiter, key, now) == [(0, 22), (0, 2)]
    limiter.settle(before, Used(0, 5))
    limiter.settle(during, Used(0, 6))
    assert await usage(limiter, key, now) == [(11, 0), (0, 0)]


async def test_redis_that_stood_still_has_everything_right_afterwards(
    valkey: OwnValkey, store: Store, limiter: RedisLimiter
) -> None:
    key, now, doubts = (
        key_with(rule("spend", "month", 1_000), rule("concurrent", "minute", 90)),
        time.time(),
        Doubts(limiter),
    )
    before = await admit(limiter, key, now, spend=10)
    valkey.pause()
    try:
        asking = [asyncio.ensure_future(admit(limiter, key, now, spend=7)) for _ in range(6)]
        while store.available:
            asking.append(asyncio.ensure_future(admit(limiter, key, now, spend=7)))
            await asyncio.wait(asking)
        during = [task.result() for task in asking]
        assert all(hold.degraded for hold in during)
        limiter.settle(before, Used(0, 4))
        limiter.release(during[0])
        for hold in during[1:]:
            limiter.settle(hold, Used(0, 1))
    finally:
        valkey.resume()
    await until(lambda: doubts.count > 0)
    assert await usage(limiter, key, now) == [(4 + len(during) - 1, 0), (0, 0)]


async def test_what_redis_was_too_slow_for_as_it_came_back_is_said_again(store: Store, limiter: RedisLimiter) -> None:
    key, now = key_with(rule("spend", "month", 100)), time.time()
    hold = await admit(limiter, key, now, spend=10)
    limiter._waiting.append((scripts.SETTLE, key.organization_id, (hold.call_id, 1, 0, 4)))
    assert await store.execute("CLIENT", "PAUSE", 80, "ALL")  # longer than it has time for one answer
    await limiter._flush()
    assert store.failures, "the first try found it too slow"
    async with asyncio.timeout(5):
        while not store.up or await usage(limiter, key, now) != [(4, 0)]:  # noqa: ASYNC110 - a slow machine needs a second return
            await asyncio.sleep(0.01)


async def test_what_passed_in_a_window_before_and_during_an_outage_counts_after_it(
    valkey: OwnValkey, store: Store, limiter: RedisLimiter
) -> None:
    key, now, doubts = key_with(rule("requests", "minute", 10)), time.time(), Doubts(limiter)
    for _ in range(6):
        limiter.settle(await admit(limiter, key, now), Used())
    valkey.pause()
    try:
        passed = 0
        with pytest.raises(LimitReached):
            for _ in range(10):
                limiter.settle(await admit(limiter, key, now), Used())
                passed += 1
        assert passed == 4, "what was left when Redis was last heard of"
    finally:
        valkey.resume()
    await until(lambda: doubts.count > 0)
    assert await usage(limiter, key, now) == [(10, 0)]


async def test_a_client_that_leaves_while_it_is_admitted_holds_nothing(store: Store, limiter: RedisLimiter) -> None:
    key, now = key_with(rule("concurrent", "minute", 1)), time.time()
    leaving = asyncio.create_task(limiter.admit(key, key.limits, ask(), now))
    while not store._running:  # noqa: ASYNC110 - one turn of the loop, as often as needed
        await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    async with asyncio.timeout(5):
        while (await usage(limiter, key, now)) != [(0, 0)] or limiter._undo:  # noqa: ASYNC110 - it ends by a timer
            await asyncio.sleep(0.01)
    await admit(limiter, key, now)


async def test_closing_says_what_was_still_to_be_said(valkey: OwnValkey, store: Store) -> None:
    limiter = RedisLimiter(store)
    await limiter.open()
    key, now = key_with(rule("tokens", "day", 100)), time.time()
    hold = await admit(limiter, key, now, tokens=50)
    limiter.reached(hold)
    limiter.settle(hold, Used(20))
    await limiter.close()
    await store.close()
    again = Store()
    await again.open(valkey.url)
    assert await usage(RedisLimiter(again), key, now) == [(20, 0)]
    assert await again.execute("HLEN", "{gatehouse:limits}:processes") == 0
    await again.close()
