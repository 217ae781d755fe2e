"""The history that bench.size makes up is one the ledger would have written: same roll-ups, same prices, same months."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection

from bench import history
from lib.ids import uuid7_ms
from usage import figures, partitions, recosting, rollups
from usage.models import RequestRecord, UsageBucket

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.skipif("connection.vendor != 'postgresql'", reason="only PostgreSQL makes up a history"),
]
ROWS, DAYS = 600, 3


@pytest.fixture
def end(db: None) -> datetime:
    """Three days of calls up to noon, with their roll-ups."""
    end = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
    history.make_world(end - timedelta(days=DAYS), keys=12, events=2)
    for day, _count in history.write_calls(ROWS, DAYS, end):
        history.write_rollups(day, minutes=True)
    return end


def buckets() -> list[tuple[Any, ...]]:
    return sorted(UsageBucket.objects.values_list(*rollups.COLUMNS))


def test_a_made_up_history_is_as_the_ledger_writes_it(end: datetime) -> None:
    records = list(RequestRecord.objects.all())
    assert ROWS * 0.6 < len(records) <= ROWS + DAYS
    for record in records:
        assert record.started_at < end
        assert uuid7_ms(record.id) == int(record.started_at.timestamp() * 1000)
        assert all(lane.left + lane.width <= 100.01 for lane in figures.waterfall(record))
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {partitions.DEFAULT}")
        assert cursor.fetchone() == (0,), "each call lies in the partition of its month"

    made_up = buckets()
    assert recosting.rebuild(end - timedelta(days=DAYS), end) == len(records)
    assert made_up == buckets()

    for record in records:
        if record.deployment_id:
            card = recosting._card(record, {})
            assert card is not None
            assert (record.price_version, record.cost_nano) == (card.version, card.cost(recosting.tokens_of(record)))
