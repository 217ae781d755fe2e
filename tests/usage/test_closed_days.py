"""What is remembered of days that are over is never older than the roll-ups: whoever changes them is heard."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import transaction

from lib import json
from tests.usage.events import event
from usage import closed_days, ledger, records, recosting, rollups, summaries
from usage.flight import encode
from usage.models import RequestRecord, UsageBucket
from usage.summaries import Filters, Period

pytestmark = pytest.mark.django_db
NOW = datetime.now(UTC)
PERIOD = Period(NOW - timedelta(days=9), NOW + timedelta(minutes=1))
EVERYTHING = Filters(organizations=None)


def call(days: int, **fields: Any) -> None:
    """One call, so many days ago, as the ledger takes it."""
    at = int((NOW - timedelta(days=days)).timestamp() * 1000)
    ledger.record([records.row(json.loads(encode(event(started_ms=at, **fields))))])


def requests() -> int:
    return summaries.totals(PERIOD, EVERYTHING).requests


@pytest.fixture(autouse=True)
def asked_before(db: None) -> Iterator[None]:
    for days in (0, 3, 3, 8):
        call(days)
    assert requests() == 4
    yield


def test_days_that_are_over_are_read_once() -> None:
    UsageBucket.objects.filter(start__lt=NOW - timedelta(days=2)).delete()  # behind everybody's back
    assert requests() == 4
    closed_days.forget()
    assert requests() == 1


def test_a_call_recorded_late_counts_at_once() -> None:
    call(5)
    assert requests() == 5


def test_a_call_of_today_counts_at_once_and_leaves_what_is_remembered() -> None:
    UsageBucket.objects.filter(start__lt=NOW - timedelta(days=2)).delete()  # behind everybody's back
    call(0)
    assert requests() == 5


def test_a_change_that_is_rolled_back_changes_nothing() -> None:
    with pytest.raises(RuntimeError), transaction.atomic():
        call(5)
        raise RuntimeError
    assert requests() == 4


def test_roll_ups_made_anew_count_at_once() -> None:
    RequestRecord.objects.filter(started_at__lt=NOW - timedelta(days=7)).delete()
    recosting.rebuild(NOW - timedelta(days=8), NOW - timedelta(days=7))
    assert requests() == 3


def test_a_corrected_cost_counts_at_once() -> None:
    spent = summaries.totals(PERIOD, EVERYTHING).spend
    row = RequestRecord.objects.order_by("started_at")[0]
    with transaction.atomic():
        rollups.adjust(dict.fromkeys(rollups.keys_of(recosting._row(row)), (1000, 0)))
    assert summaries.totals(PERIOD, EVERYTHING).spend == spent + 1_000


def test_what_one_may_see_is_part_of_the_question() -> None:
    call(3, organization_id="org-2", organization="Globex")
    assert summaries.totals(PERIOD, Filters(organizations=["org-2"])).requests == 1
    assert summaries.totals(PERIOD, Filters(organizations=["org-1"])).requests == 4
    assert summaries.totals(PERIOD, Filters(organizations=[])).requests == 0
    assert requests() == 5


def test_the_latest_name_is_told_and_a_group_new_today_moves_the_others() -> None:
    """The top ones are chosen over all days, not over those remembered."""
    first = summaries.explore(PERIOD, EVERYTHING, "requests", "key", top=1)
    assert [(entry.id, entry.value) for entry in first.entries] == [("key-1", 4)]
    for _ in range(5):
        call(0, key_id="key-2", key="new today")
    found = summaries.explore(PERIOD, EVERYTHING, "requests", "key", top=1)
    assert [(entry.name, entry.value) for entry in found.entries] == [("new today", 5), ("Other", 4)]
    assert [sum(value or 0 for value in entry.values) for entry in found.entries] == [5, 4]


def test_steps_of_days_that_are_over_are_read_once() -> None:
    def values() -> list[float | None]:
        found = summaries.explore(PERIOD, EVERYTHING, "requests", "key", top=1)
        return [sum(value or 0 for value in entry.values) for entry in found.entries]

    call(3, key_id="key-2")
    assert values() == [4, 1]
    UsageBucket.objects.filter(start__lt=NOW - timedelta(days=2)).delete()  # behind everybody's back
    assert values() == [4, 1]
    call(5)  # recorded late
    assert values() == [2]


@pytest.mark.parametrize("row", [{"one": 1, "two": 2}, (1, 2)], ids=["by name", "flat"])
def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch, row: Any) -> None:
    monkeypatch.setattr(closed_days, "TOTAL", 10_000)
    for number in range(50):
        closed_days.remembered(("question", number), lambda: [row] * 5)
    assert 1 <= len(closed_days._known) < 20
    assert closed_days._size == sum(map(closed_days._bytes, closed_days._known.values())) <= 10_000


def test_an_answer_that_is_too_large_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed_days, "MOST", 10_000)
    closed_days.forget()
    closed_days.remembered("small", lambda: [(1, 2)])
    closed_days.remembered("large", lambda: [(1, 2)] * 1_000)
    assert len(closed_days._known) == 1
