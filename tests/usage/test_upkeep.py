"""Retention and partitions."""

from __future__ import annotations

import asyncio
import json as plain_json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest
from asgiref.sync import sync_to_async
from django.contrib.sessions.models import Session
from django.core.management import CommandError, call_command
from django.db import connection

from lib import json
from lib.ids import uuid7
from tests.usage.events import event
from usage import ledger, partitions, records, upkeep
from usage.flight import encode
from usage.models import RequestRecord, StoredBody, UsageBucket
from usage.partitions import Month

pytestmark = pytest.mark.django_db

NOW = datetime.now(UTC)
on_postgresql = pytest.mark.skipif("connection.vendor != 'postgresql'", reason="only PostgreSQL has partitions")


@pytest.fixture(autouse=True)
def without_partitions() -> Iterator[None]:
    """Neither those of other files, whose processes make them as they start, nor what these tests make."""
    drop_all()
    yield
    drop_all()


def drop_all() -> None:
    if partitions.partitioned():
        for month in partitions.existing():
            partitions.drop(month)


def record(*when: datetime) -> None:
    events = [event(started_ms=int(at.timestamp() * 1000)) for at in when]
    ledger.record([records.row(json.loads(encode(each))) for each in events])


def days(count: float) -> datetime:
    return NOW - timedelta(days=count)


def count_of(table: str) -> int:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM ONLY {table}")
        return int(cursor.fetchone()[0])


def test_old_rows_go_and_young_ones_stay() -> None:
    record(days(91), days(89), days(2), days(4))
    StoredBody.objects.create(call_id=uuid7(), organization_id="o", key_id="k", at=days(8), sealed="x")
    StoredBody.objects.create(call_id=uuid7(), organization_id="o", key_id="k", at=days(6), sealed="x")
    would = upkeep.prune(NOW, dry_run=True)
    assert RequestRecord.objects.count() == 4
    assert upkeep.prune(NOW) == would
    assert (would.records, would.minutes, would.bodies) == (1, 3, 1)
    assert RequestRecord.objects.count() == 3
    assert UsageBucket.objects.filter(width=60).count() == 1
    assert UsageBucket.objects.filter(width=900).count() == 4, "quarters outlive the records"
    assert StoredBody.objects.count() == 1
    assert upkeep.prune(NOW) == upkeep.Pruned()


def test_sessions_go_when_they_have_expired_and_not_before() -> None:
    for name, ends in (("gone", days(0.01)), ("here", days(-0.01))):
        Session.objects.create(session_key=name, session_data="", expire_date=ends)
    assert upkeep.prune(NOW).sessions == 1
    assert [each.session_key for each in Session.objects.all()] == ["here"]


def test_the_command_says_what_it_did() -> None:
    record(days(91), days(1))
    out = StringIO()
    call_command("prune", "--dry-run", "--json", stdout=out)
    assert plain_json.loads(out.getvalue())["records"] == 1
    assert RequestRecord.objects.count() == 2
    call_command("prune", stdout=(out := StringIO()))
    assert "Deleted: 1 records" in out.getvalue()
    assert RequestRecord.objects.count() == 1


def test_months_follow_each_other_over_the_year() -> None:
    assert Month(2026, 11).plus(2) == Month(2027, 1)
    assert Month(2026, 1).plus(-1) == Month(2025, 12)
    assert Month(2026, 12).bounds[1] == Month(2027, 1).bounds[0]
    assert Month.of(datetime.fromisoformat("2026-12-31T23:30:00-01:00")) == Month(2027, 1)


@on_postgresql
class TestPartitions:
    def test_this_month_and_the_next_two_are_made_once(self) -> None:
        made = partitions.make_ahead(NOW)
        assert [Month.of(NOW).plus(n).table for n in range(3)] == made
        assert partitions.make_ahead(NOW) == []

    def test_calls_land_in_their_month(self) -> None:
        partitions.make_ahead(NOW)
        record(NOW, days(400))
        assert count_of(Month.of(NOW).table) == 1
        assert count_of(partitions.DEFAULT) == 1

    def test_what_came_before_its_partition_moves_into_it(self) -> None:
        record(NOW, NOW, days(400))
        partitions.make_ahead(NOW)
        assert count_of(Month.of(NOW).table) == 2
        assert count_of(partitions.DEFAULT) == 1
        assert RequestRecord.objects.count() == 3

    def test_a_call_already_moved_is_still_known(self) -> None:
        each = event()
        row = records.row(json.loads(encode(each)))
        assert ledger.record([row]) == 1
        partitions.make_ahead(NOW)
        assert ledger.record([row]) == 0

    def test_a_month_is_dropped_only_when_all_of_it_is_too_old(self) -> None:
        partitions.make_ahead(datetime(2026, 1, 15, tzinfo=UTC), ahead=1)
        record(datetime(2026, 1, 20, tzinfo=UTC), datetime(2026, 2, 20, tzinfo=UTC))
        at = datetime(2026, 2, 10, tzinfo=UTC) + timedelta(days=90)
        assert upkeep.prune(at, dry_run=True).partitions == (Month(2026, 1).table,)
        assert upkeep.prune(at).partitions == (Month(2026, 1).table,)
        assert RequestRecord.objects.count() == 1

    def test_two_processes_do_not_prune_at_once(self) -> None:
        other = connection.copy()
        with other.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_lock(%s)", [upkeep.LOCK_ID])
        try:
            with upkeep.alone() as mine:
                assert not mine
            with pytest.raises(CommandError, match="Another process"):
                call_command("prune")
        finally:
            with other.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [upkeep.LOCK_ID])
            other.close()
        with upkeep.alone() as mine:
            assert mine


@pytest.mark.django_db(transaction=True)
async def test_the_daily_round_begins_with_the_server() -> None:
    await sync_to_async(record)(days(400))
    await upkeep.open()
    try:
        async with asyncio.timeout(20):
            while await RequestRecord.objects.aexists():  # noqa: ASYNC110 - there is no event to wait for, only a row or a price
                await asyncio.sleep(0.02)
    finally:
        await upkeep.close()
    if partitions.partitioned():
        assert await sync_to_async(partitions.existing)()
