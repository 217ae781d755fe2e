"""The store against a real server: that stops, that stands still, that comes back empty."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lib.store import Script, Store, StoreDown, StoreRefused
from tests.valkey import OwnValkey

ADD = Script("return redis.call('INCRBY', KEYS[1], ARGV[1])")


@pytest.fixture(autouse=True)
def a_busy_machine_is_not_a_slow_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.store.TIMEOUT", 10.0)


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


def turned(store: Store) -> tuple[asyncio.Event, asyncio.Event]:
    """Events for the next down and the next up."""
    down, up = asyncio.Event(), asyncio.Event()
    store.on_down(down.set)
    store.on_up(up.set)
    return down, up


async def test_a_script_is_sent_by_its_hash_and_taught_to_a_server_that_does_not_know_it(store: Store) -> None:
    assert await store.run(ADD, ["counter"], [2]) == 2
    await store.execute("SCRIPT", "FLUSH")
    assert await store.run(ADD, ["counter"], [3]) == 5


async def test_a_thousand_calls_at_once_get_their_own_answers(store: Store) -> None:
    answers = await asyncio.gather(*(store.execute("ECHO", str(number)) for number in range(1000)))
    assert answers == [str(number).encode() for number in range(1000)]


async def test_a_wrong_command_is_refused_and_its_neighbours_are_not(store: Store) -> None:
    wrong, right = await asyncio.gather(store.execute("NOSUCH"), store.execute("ECHO", "x"), return_exceptions=True)
    assert isinstance(wrong, StoreRefused)
    assert right == b"x"
    assert store.available


async def test_a_cancelled_caller_does_not_disturb_the_others(store: Store) -> None:
    leaving = asyncio.create_task(store.execute("ECHO", "leaving"))
    staying = asyncio.create_task(store.execute("ECHO", "staying"))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == b"staying"
    with pytest.raises(asyncio.CancelledError):
        await leaving


async def test_submitted_commands_arrive_in_order_and_closing_waits_for_them(valkey: OwnValkey, store: Store) -> None:
    other = Store()
    await other.open(valkey.url)
    for number in range(600):
        other.submit("RPUSH", "list", number)
    await other.close()
    assert await store.execute("LRANGE", "list", 0, -1) == [str(number).encode() for number in range(600)]


async def test_without_a_url_there_is_no_store_and_nothing_is_kept() -> None:
    store = Store()
    await store.open("")
    store.submit("SET", "a", "b")
    assert not store.available
    with pytest.raises(StoreDown):
        await store.execute("PING")
    await store.close()


async def test_a_server_that_stops_is_noticed_at_once_and_found_again_when_it_is_back(
    valkey: OwnValkey, store: Store
) -> None:
    down, up = turned(store)
    await valkey.stop()
    with pytest.raises(StoreDown):
        await store.execute("PING")
    await asyncio.wait_for(down.wait(), 5)
    assert not store.available
    with pytest.raises(StoreDown):
        await store.execute("PING")
    store.submit_script(ADD, ["counter"], [4])

    await valkey.start()
    await asyncio.wait_for(up.wait(), 10)
    async with asyncio.timeout(20):  # what was submitted meanwhile arrives, by a script that the server had lost
        while await store.execute("GET", "counter") != b"4":
            pass
    assert await store.run(ADD, ["counter"], [1]) == 5


async def test_a_server_that_stands_still_costs_its_time_out_only_until_the_store_closes(
    valkey: OwnValkey, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    down, up = turned(store)
    valkey.pause()
    monkeypatch.setattr("lib.store.TIMEOUT", 0.1)
    try:
        for _ in range(3):
            with pytest.raises(StoreDown):
                await store.execute("PING")
        await asyncio.wait_for(down.wait(), 5)
        loop = asyncio.get_running_loop()
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = loop.create_task(count())
        for _ in range(100):
            with pytest.raises(StoreDown):
                await store.execute("PING")
        counting.cancel()
        assert turns <= 1, "a closed store refuses without letting anybody else run: it waits for nothing"
    finally:
        monkeypatch.setattr("lib.store.TIMEOUT", 10.0)
        valkey.resume()
    await asyncio.wait_for(up.wait(), 10)
    assert await store.execute("PING") == b"PONG"


async def test_a_store_opened_before_its_server_finds_it_later(valkey: OwnValkey) -> None:
    await valkey.stop()
    store = Store()
    _, up = turned(store)
    await store.open(valkey.url)
    assert not store.available
    await valkey.start()
    await asyncio.wait_for(up.wait(), 10)
    assert await store.execute("PING") == b"PONG"
    await store.close()


async def test_a_full_outbox_drops_and_counts(valkey: OwnValkey, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.store.OUTBOX", 10)
    await valkey.stop()
    with pytest.raises(StoreDown):
        await store.execute("PING")
    for _ in range(15):
        store.submit("PING")
    assert store.dropped == 5


async def test_a_replica_that_may_not_write_counts_as_down(store: Store, valkey: OwnValkey) -> None:
    down, _ = turned(store)
    await store.execute("REPLICAOF", "127.0.0.1", 1)
    with pytest.raises(StoreDown):
        await store.execute("SET", "a", "b")
    assert down.is_set()
