"""Several processes, one Redis: what one finds out, all go by. Real Valkey; the processes are boards with stores."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from lib.bus import Bus
from lib.store import Store
from routing.catalog import Catalog
from routing.errors import NoDeployment, UpstreamError
from routing.router import Hints, Router
from routing.scores import Score
from routing.scores_memory import Board
from routing.scores_redis import CLOCKS, Sharing
from tests.routing.simulation import deployment, public_model
from tests.valkey import OwnValkey

MODEL = public_model(deployment("a"), deployment("b"), strategy="failover")
CATALOG = Catalog((MODEL,))
HOUSE = Path(__file__).resolve().parent.parent.parent


@dataclass
class Process:
    """What one server process has of the router."""

    router: Router
    sharing: Sharing
    store: Store
    bus: Bus

    def score(self, name: str) -> Score:
        return self.router.board.scores[name]

    def state(self, name: str) -> str:
        return self.score(name).breaker.state(self.router.clock())

    def call(self, *errors: UpstreamError) -> str:
        """Make a call whose first tries fail with `errors`; the deployment that answered."""
        left = list(errors)
        for attempt in self.router.attempts(MODEL, Hints()):
            with attempt as entry:
                if left:
                    raise left.pop(0)
                return entry.id
        raise AssertionError("the last attempt returns or raises")


@asynccontextmanager
async def process(url: str, *, listening: bool = True) -> AsyncIterator[Process]:
    """listening: hears the bus, as it should; without, only the pull every 250 ms is left."""
    board, store, bus = Board(), Store(), Bus()
    sharing = Sharing(board, store, bus)
    await store.open(url)
    if listening:
        await bus.open(url)
        await until(lambda: bus.connected)
    await sharing.open(lambda: CATALOG)
    await until(lambda: "a" in board.scores)
    try:
        yield Process(Router(board, random=Random(1)), sharing, store, bus)
    finally:
        await sharing.close()
        await bus.close()
        await store.close()


async def until(true: Callable[[], object]) -> None:
    """Let the background work until it is so; half a minute is a failure."""
    async with asyncio.timeout(30):
        while not true():  # noqa: ASYNC110 - what is waited for happens in another process, or in Redis
            await asyncio.sleep(0.005)


@pytest.fixture(autouse=True)
def a_busy_machine_is_not_a_slow_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lib.store.TIMEOUT", 1.0)


@pytest.fixture
async def valkey(tmp_path: Path) -> AsyncIterator[OwnValkey]:
    server = OwnValkey(tmp_path)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def processes(valkey: OwnValkey) -> AsyncIterator[Callable[..., Awaitable[Process]]]:
    async with AsyncExitStack() as stack:

        async def start(**given: bool) -> Process:
            return await stack.enter_async_context(process(valkey.url, **given))

        yield start


Start = Callable[..., Awaitable[Process]]


def rate_limited(seconds: float) -> UpstreamError:
    return UpstreamError("rate_limited", "slow down", retry_after=seconds, provider_status=429)


@pytest.mark.parametrize("listening", [True, False], ids=["over the bus", "by the pull"])
async def test_a_rate_limit_met_by_one_process_is_honoured_by_the_other(processes: Start, listening: bool) -> None:
    one, other = await processes(), await processes(listening=listening)
    assert one.call(rate_limited(7.0)) == "b"
    await until(lambda: other.state("a") == "cooling")
    assert other.call() == "b"
    mine, theirs = one.score("a").breaker, other.score("a").breaker
    assert theirs.cooling_until == pytest.approx(mine.cooling_until + CLOCKS, abs=0.2)  # and not before
    assert theirs.cooling_until - one.router.clock() > 6.0
    assert theirs.cause == "rate_limited"


async def test_a_process_that_starts_later_knows_what_cools_and_what_is_open(processes: Start) -> None:
    one = await processes()
    one.call(rate_limited(60.0))
    with pytest.raises(UpstreamError):
        one.call(UpstreamError("credential", "no"))
    late = await processes()
    await until(lambda: (late.state("a"), late.state("b")) == ("cooling", "held"))


async def open_in(one: Process, *others: Process) -> None:
    """Deployment a fails five times in one process; all know."""
    for _ in range(5):
        assert one.call(UpstreamError("server", "broken")) == "b"
    await until(lambda: all(each.state("a") == "open" for each in (one, *others)))


async def time_is_up(*processes: Process) -> None:
    """The opening of a is over, for everybody and in Redis."""
    store = processes[0].store
    if store.available:
        await store.execute("HSET", "{gatehouse:routing}:breakers", "a", "1 0 1 server -")
    for each in processes:
        breaker = each.score("a").breaker
        breaker.open_until = breaker.blocked_until = each.router.clock()


async def test_only_one_process_probes_and_when_it_succeeds_all_are_open_again(processes: Start) -> None:
    one, other = await processes(), await processes()
    await open_in(one, other)
    await time_is_up(one, other)
    await until(lambda: one.score("a").breaker.permitted or other.score("a").breaker.permitted)
    prober, waiting = (one, other) if one.score("a").breaker.permitted else (other, one)
    for _ in range(3):
        await waiting.sharing._sync()
    assert not waiting.score("a").breaker.permitted
    assert waiting.call() == "b"
    assert (prober.call(), prober.call()) == ("a", "a")
    await until(lambda: waiting.state("a") == "closed")
    assert waiting.call() == "a"


async def test_a_failed_probe_keeps_everybody_away_for_longer(processes: Start) -> None:
    one, other = await processes(), await processes()
    await open_in(one, other)
    await time_is_up(one, other)
    await until(lambda: one.score("a").breaker.permitted or other.score("a").breaker.permitted)
    prober, waiting = (one, other) if one.score("a").breaker.permitted else (other, one)
    assert prober.call(UpstreamError("server", "still broken")) == "b"
    await until(lambda: waiting.state("a") == "open")
    assert waiting.score("a").breaker.open_until - waiting.router.clock() > 8


async def test_an_operator_takes_a_breaker_back_everywhere(processes: Start) -> None:
    one, other = await processes(), await processes()
    await open_in(one, other)
    await asyncio.to_thread(one.sharing.reset, "a")
    await until(lambda: other.state("a") == "closed" and one.state("a") == "closed")
    for _ in range(3):
        await one.sharing._sync()
        await other.sharing._sync()
    assert (one.state("a"), other.state("a")) == ("closed", "closed"), "nobody brings it back"


async def test_calls_in_flight_requests_and_latency_are_known_to_the_others(processes: Start) -> None:
    one, other = await processes(), await processes()
    lent = [next(one.router.attempts(MODEL, Hints(stream=True))) for _ in range(3)]
    for attempt in lent:
        attempt.__enter__()
    await asyncio.sleep(0.002)  # the upstream's time to its first token
    for attempt in lent:
        attempt.commit()
    await until(lambda: other.score("a").in_flight == 3)
    assert other.score("a").minute.used(other.router.clock())[0] == pytest.approx(3, abs=0.2)
    assert other.score("a").streams.samples == 1, "it starts from what the others measured"
    for attempt in lent:
        attempt.__exit__(None, None, None)
    await until(lambda: other.score("a").in_flight == 0)


async def test_a_limit_of_parallel_calls_holds_over_all_processes(processes: Start) -> None:
    one, other = await processes(), await processes()
    narrow = public_model(deployment("a", max_parallel=2), id="m")
    lent = [next(one.router.attempts(narrow, Hints())) for _ in range(2)]
    for attempt in lent:
        attempt.__enter__()
    await until(lambda: other.score("a").elsewhere == 2)
    with pytest.raises(NoDeployment):
        next(other.router.attempts(narrow, Hints()))
    for attempt in lent:
        attempt.__exit__(None, None, None)


CHILD = """
import asyncio, sys
import django
django.setup()
from tests.routing.test_router_sharing import process, MODEL, Hints

async def main():
    async with process(sys.argv[1]) as me:
        for _ in range(7):
            next(me.router.attempts(MODEL, Hints())).__enter__()
        print("lent", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_what_a_killed_process_had_in_flight_is_given_back(
    processes: Start, valkey: OwnValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("routing.scores_redis.LEASE_MS", 1000)
    here = await processes()
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, valkey.url, cwd=HOUSE, stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"DJANGO_SETTINGS_MODULE": "proxy_site.settings"},
    )  # fmt: skip
    try:
        assert child.stdout is not None
        assert await child.stdout.readline() == b"lent\n"
        await until(lambda: here.score("a").in_flight == 7)
    finally:
        child.send_signal(signal.SIGKILL)
        await child.wait()
    await until(lambda: here.score("a").in_flight == 0)


async def test_without_redis_the_router_goes_on_from_what_it_knows(processes: Start, valkey: OwnValkey) -> None:
    one, other = await processes(), await processes()
    assert one.call(rate_limited(60.0)) == "b"
    await until(lambda: other.state("a") == "cooling")
    await valkey.stop()
    await until(lambda: not one.store.available and not other.store.available)
    assert (one.call(), other.call()) == ("b", "b"), "what was known stays known"
    other.score("a").breaker.reset()
    assert other.call(rate_limited(60.0)) == "b", "and new things are found out"
    assert other.state("a") == "cooling"


async def test_without_redis_each_process_probes_on_its_own(processes: Start, valkey: OwnValkey) -> None:
    one, other = await processes(), await processes()
    await open_in(one, other)
    await valkey.stop()
    await until(lambda: not one.store.available and not other.store.available)
    await time_is_up(one, other)
    assert (one.call(), other.call()) == ("a", "a")


async def test_when_redis_is_back_the_processes_know_each_other_again(processes: Start, valkey: OwnValkey) -> None:
    one, other = await processes(), await processes()
    await valkey.stop()
    await until(lambda: not one.store.available and not other.store.available)
    attempt = next(one.router.attempts(MODEL, Hints()))
    with attempt:
        await valkey.start()
        await until(lambda: other.score("a").in_flight == 1)
    await until(lambda: other.score("a").in_flight == 0)


async def test_counts_of_outcomes_are_added_up_over_processes_and_outlive_them(
    processes: Start, valkey: OwnValkey
) -> None:
    one, other = await processes(), await processes()
    for _ in range(4):
        one.call()
    other.call(UpstreamError("server", "broken"))
    for each in (one, other):
        await each.sharing._tell_tally()
    for each in (one, other):
        await each.sharing._read_tally()
        counts = each.score("a").tally.since(each.router.clock() + each.router.board.epoch, 600)
        assert (counts["ok"], counts["server"]) == (4, 1)
    async with process(valkey.url) as late:
        await until(lambda: not late.score("a").tally.unread)
        assert late.score("a").tally.since(late.router.clock() + late.router.board.epoch, 600)["ok"] == 4
