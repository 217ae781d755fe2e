"""`kill -9`, a stopped database, and two processes at once: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import connection, connections
from django.db.models import Sum

from tests.usage.events import event
from usage import ledger as ledgers
from usage import pump, spool
from usage.flight import encode
from usage.ledger import Drain, Ledger
from usage.models import RequestRecord, UsageBucket
from usage.spool import FINISHED, STARTED, Spool

pytestmark = pytest.mark.django_db(transaction=True)

# Appends calls until it is killed: started, finished, and only then says the id aloud, as an answer would.
CHILD = """
import sys, time
from pathlib import Path
from lib import json
from lib.ids import uuid7
from usage.event import UsageEvent
from usage.spool import FINISHED, STARTED, Spool
own = Spool(Path(sys.argv[1]), max_bytes=20_000)
while True:
    call_id = str(uuid7())
    each = UsageEvent(call_id, time.time_ns() // 1_000_000, "o", "Acme", "k", "ci", "generateContent", "m", cost_nano=3)
    own.append(STARTED, json.dumps(each))
    own.append(FINISHED, json.dumps(each))
    sys.stdout.write(call_id + "\\n")
    sys.stdout.flush()
"""


def kill_while_it_works(directory: Path, calls: int) -> set[str]:
    """Ids of the calls that the child had answered when it was killed."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(directory)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert child.stdout is not None
    answered = {child.stdout.readline().strip() for _ in range(calls)}
    child.send_signal(signal.SIGKILL)
    answered |= {line.strip() for line in child.stdout if line.endswith("\n")}
    child.wait()
    child.stdout.close()
    return answered


def test_every_answered_call_of_killed_processes_is_recorded_exactly_once(tmp_path: Path) -> None:
    answered = set()
    for calls in (1, 150):
        answered |= kill_while_it_works(tmp_path, calls)
    own = Spool(tmp_path)
    Drain(own, 90).step()
    own.close()
    recorded = {str(found) for found in RequestRecord.objects.values_list("id", flat=True)}
    assert answered <= recorded
    assert len(recorded) - len(answered) <= 4, "at most what each was just about to answer"
    for width in (60, 900):
        found = UsageBucket.objects.filter(width=width).aggregate(calls=Sum("requests"), cost=Sum("cost_nano"))
        assert found == {"calls": len(recorded), "cost": 3 * len(recorded)}
    assert not list(tmp_path.glob("*.spool"))


def test_two_adopters_share_what_a_dead_process_left_without_doubling(tmp_path: Path) -> None:
    for _ in range(5):
        dead = Spool(tmp_path)
        for _ in range(20):
            dead.append(FINISHED, encode(event()))
        dead.close()
    one, two = Spool(tmp_path), Spool(tmp_path)
    first, second = spool.adopt(tmp_path), spool.adopt(tmp_path)
    assert (len(first), second) == (5, [])
    for segment in [segment for segments in first for segment in segments]:
        segment.close()
    Drain(one, 90).step()
    Drain(two, 90).step()
    assert RequestRecord.objects.count() == 100
    one.close()
    two.close()


def test_a_file_read_again_from_its_beginning_counts_nothing_twice(tmp_path: Path) -> None:
    """What happens when a process dies after the database had its calls, and before the file was deleted."""
    own = Spool(tmp_path)
    for _ in range(10):
        own.append(FINISHED, encode(event()))
    Drain(own, 90).step()
    own._seal()
    for segment in own.segments:
        segment.close()
    own.segments.clear()
    again = Spool(tmp_path)
    Drain(again, 90).step()
    again.close()
    assert RequestRecord.objects.count() == 10
    assert UsageBucket.objects.filter(width=900).aggregate(sum=Sum("requests"))["sum"] == 10


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger()
    opened.open(tmp_path, retention_days=90, fsync=True)
    yield opened
    opened.close()


def wait_until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


def test_the_thread_drains_by_itself(running: Ledger) -> None:
    each = event()
    spool.current().append(STARTED, encode(each))
    spool.current().append(FINISHED, encode(each))
    wait_until(lambda: RequestRecord.objects.exists())


def test_closing_drains_what_is_left_and_leaves_no_file(tmp_path: Path) -> None:
    opened = Ledger()
    opened.open(tmp_path, retention_days=90, fsync=False)
    for _ in range(700):
        spool.current().append(FINISHED, encode(event()))
    opened.close()
    assert RequestRecord.objects.count() == 700
    assert list(tmp_path.iterdir()) == []
    assert not spool.healthy()


async def test_opened_in_the_data_directory_it_belongs_to() -> None:
    await ledgers.open()
    try:
        assert spool.healthy()
        assert spool.current().directory == Path(settings.GATEHOUSE.data_dir) / "spool"
    finally:
        await ledgers.close()


class Outage:
    """A PostgreSQL database that lets nobody in and has thrown everybody out, on a server that otherwise runs."""

    def __init__(self) -> None:
        given = connection.get_connection_params()
        self.name = given["dbname"]
        self.way = {name: given[name] for name in ("host", "port", "user", "password") if given.get(name)}

    def _say(self, *statements: str) -> None:
        with psycopg.connect(dbname="postgres", autocommit=True, **self.way) as other:
            for statement in statements:
                other.execute(statement)

    def begin(self) -> None:
        connection.close()
        # The thread that asynchronous tests read the database from keeps its connection from test to test.
        asyncio.run(sync_to_async(connections.close_all)())
        self._say(
            f'ALTER DATABASE "{self.name}" ALLOW_CONNECTIONS false',
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self.name}'",
        )

    def end(self) -> None:
        self._say(f'ALTER DATABASE "{self.name}" ALLOW_CONNECTIONS true')
        connection.close()
        connection.close_pool()


@pytest.mark.skipif("connection.vendor != 'postgresql'", reason="needs a server that can go away")
def test_a_database_outage_only_lets_the_spool_grow_and_everything_is_caught_up(
    running: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pump, "PATIENCE", (0.05,))
    monkeypatch.setattr(connection.pool, "timeout", 0.5)  # seconds that a lost database is waited for
    outage = Outage()
    spool.current().append(FINISHED, encode(event()))
    wait_until(lambda: RequestRecord.objects.count() == 1)
    outage.begin()
    try:
        for _ in range(200):
            spool.current().append(FINISHED, encode(event()))
        wait_until(lambda: running.failures > 0)
        assert spool.healthy(), "calls may still be taken"
        assert running.behind_since is not None
    finally:
        outage.end()
    wait_until(lambda: running.failures == 0)
    wait_until(lambda: RequestRecord.objects.count() == 201)
    assert UsageBucket.objects.filter(width=900).aggregate(sum=Sum("requests"))["sum"] == 201
