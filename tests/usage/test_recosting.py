"""Doing the sums again."""

from __future__ import annotations

import json as plain_json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db.models import Sum

from lib import json
from tests.usage.events import event
from usage import ledger, prices, records, recosting
from usage.event import Tokens
from usage.flight import encode
from usage.models import PriceOverride, RequestRecord, UsageBucket
from usage.rollups import WIDTHS

pytestmark = pytest.mark.django_db

NOW = datetime.now(UTC)
START, END = NOW - timedelta(days=1), NOW + timedelta(hours=6)


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    yield
    prices._overrides = {}
    prices._cards.clear()


def record(**given: Any) -> None:
    values = {
        "deployment_id": "d1",
        "deployment": "gpt-4o at x",
        "backend": "openai",
        "upstream_model": "gpt-4o",
    } | given
    ledger.record([records.row(json.loads(encode(event(**values))))])


def sums(column: str) -> set[int]:
    return {UsageBucket.objects.filter(width=width).aggregate(sum=Sum(column))["sum"] for width in WIDTHS}


def test_an_unpriced_record_gets_its_price_and_the_roll_ups_follow() -> None:
    record(cost_nano=None, flags=("estimated", "unpriced"), upstream_model="own-model", deployment_id="own")
    record(cost_nano=5, price_version="old")
    PriceOverride.objects.create(deployment_id="own", valid_from=START, input=Decimal(1), output=Decimal(2))
    done = recosting.recost(START, END)
    found = RequestRecord.objects.get(deployment_id="own")
    assert (found.cost_nano, found.flags) == (100 * 1000 + 20 * 2000, ["estimated"])
    assert found.price_version.startswith("override")
    total = 140_000 + 100 * 2500 + 20 * 10_000
    assert (done.seen, done.changed, done.before, done.after) == (2, 2, 5, total)
    assert sums("cost_nano") == {total}
    assert sums("unpriced") == {0}
    assert done.organizations == {"org-1": total - 5}


def test_a_dry_run_changes_nothing() -> None:
    record(cost_nano=5, price_version="old")
    out = StringIO()
    day = START.date().isoformat()
    call_command("recost", "--from", day, "--to", END.isoformat(), "--dry-run", "--json", stdout=out)
    assert plain_json.loads(out.getvalue())["changed"] == 1
    assert RequestRecord.objects.get().cost_nano == 5
    assert sums("cost_nano") == {5}


def test_the_same_price_version_keeps_its_cost() -> None:
    card = prices.resolve("d1", "openai", "gpt-4o", NOW.timestamp())
    assert card is not None
    record(cost_nano=77, price_version=card.version, flags=("estimated",))
    assert recosting.recost(START, END).changed == 0


def test_a_price_that_is_gone_takes_no_cost_away() -> None:
    record(cost_nano=77, price_version="override then", upstream_model="own-model")
    assert recosting.recost(START, END).changed == 0
    assert RequestRecord.objects.get().cost_nano == 77


def test_records_outside_the_period_and_calls_without_a_deployment_are_left_alone() -> None:
    record(cost_nano=1, price_version="old", started_ms=int((START - timedelta(minutes=5)).timestamp() * 1000))
    record(cost_nano=0, deployment_id="", tokens=Tokens())
    assert recosting.recost(START, END).seen == 0


def test_roll_ups_made_anew_are_the_same_as_those_made_on_the_way() -> None:
    for minute in range(50):
        at = int((NOW - timedelta(minutes=37 * minute)).timestamp() * 1000)
        record(started_ms=at, cost_nano=minute, key_id=f"k{minute % 3}", flags=("estimated",) if minute % 2 else ())
    columns = [field.name for field in UsageBucket._meta.fields if field.name != "id"]

    def every() -> list[tuple[Any, ...]]:
        return sorted(tuple(map(str, row)) for row in UsageBucket.objects.values_list(*columns))

    before = every()
    UsageBucket.objects.filter(key_id="k1").delete()
    UsageBucket.objects.filter(key_id="k2").update(cost_nano=0)
    out = StringIO()
    call_command(
        "rollup", "--rebuild", "--from", (NOW - timedelta(days=2)).isoformat(), "--to", END.isoformat(), stdout=out
    )
    assert "50 records" in out.getvalue()
    assert every() == before


def test_roll_ups_whose_records_are_gone_are_not_made_anew() -> None:
    with pytest.raises(CommandError, match="kept for 90 days"):
        call_command("rollup", "--rebuild", "--from", "2020-01-01", "--to", "2020-01-02")


@pytest.mark.parametrize(
    ("start", "end"), [("yesterday", "2026-01-01"), ("2026-01-02", "2026-01-01"), ("2026-13-01", "2026-01-01")]
)
def test_a_period_that_is_none_is_refused(start: str, end: str) -> None:
    with pytest.raises(CommandError):
        call_command("recost", "--from", start, "--to", end)
