"""The ledger's promises, on whatever database this run has."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db.models import Sum

from lib import json
from tests.usage.events import event
from usage import histogram, spool
from usage.event import Tokens
from usage.flight import encode
from usage.ledger import LABELS, Drain
from usage.models import QuarantinedEvent, RequestRecord, UsageBucket
from usage.spool import FINISHED, STARTED, Spool

pytestmark = pytest.mark.django_db


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Spool]:
    opened = Spool(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def drain(own: Spool) -> Drain:
    return Drain(own, retention_days=90)


def test_a_finished_call_becomes_one_record_and_one_bucket_of_each_width(own: Spool, drain: Drain) -> None:
    own.append(FINISHED, encode(event(flags=("estimated",), attempts=(), tags=("a",))))
    drain.step()
    record = RequestRecord.objects.get()
    assert (record.prompt_tokens, record.output_tokens, record.cost_nano) == (100, 20, 1200)
    assert (record.tags, record.flags) == (["a"], ["estimated"])
    assert record.started_at.tzinfo is not None
    for width in (60, 900):
        bucket = UsageBucket.objects.get(width=width)
        assert (bucket.requests, bucket.cost_nano, bucket.estimated, bucket.ttft_count) == (1, 1200, 1, 1)
        assert bucket.start.timestamp() % width == 0
        assert sum(bucket.total_histogram) == 1
        assert len(bucket.total_histogram) == histogram.SIZE


def test_the_same_call_twice_counts_once(own: Spool, drain: Drain) -> None:
    first, second = event(), event()
    for each in (first, first, second):
        own.append(FINISHED, encode(each))
    drain.step()
    own.append(FINISHED, encode(second))
    own.append(FINISHED, encode(event()))
    drain.step()
    assert RequestRecord.objects.count() == 3
    assert UsageBucket.objects.filter(width=900).aggregate(sum=Sum("requests"))["sum"] == 3


def test_sums_of_records_buckets_and_events_agree_to_the_nano_dollar(own: Spool, drain: Drain) -> None:
    started = 1_790_000_000_000
    events = [
        event(
            started_ms=started + i * 7_000,
            model=f"m{i % 3}",
            tokens=Tokens(prompt=i, candidates=i * 3, thoughts=1),
            cost_nano=i * i,
            total_ms=i,
            ttft_ms=None if i % 4 == 0 else i,
        )
        for i in range(300)
    ]
    for i, each in enumerate(events):
        own.append(FINISHED, encode(each))
        if i % 50 == 0:
            drain.step()
    drain.step()
    expected = sum(each.cost_nano or 0 for each in events)
    assert RequestRecord.objects.aggregate(sum=Sum("cost_nano"))["sum"] == expected
    for width in (60, 900):
        buckets = UsageBucket.objects.filter(width=width)
        assert buckets.aggregate(sum=Sum("cost_nano"))["sum"] == expected
        merged = histogram.merge(bucket.total_histogram for bucket in buckets)
        assert sum(merged) == 300
        assert sum(histogram.merge(bucket.ttft_histogram for bucket in buckets)) == 225


def test_an_unpriced_call_is_counted_as_unpriced_and_never_as_free(own: Spool, drain: Drain) -> None:
    own.append(FINISHED, encode(event(cost_nano=None, flags=("unpriced",))))
    drain.step()
    assert RequestRecord.objects.get().cost_nano is None
    bucket = UsageBucket.objects.get(width=60)
    assert (bucket.unpriced, bucket.cost_nano) == (1, 0)


def test_poison_goes_to_quarantine_and_the_rest_goes_on(own: Spool, drain: Drain) -> None:
    own.append(FINISHED, encode(event()))
    own.append(FINISHED, b"not json")
    own.append(FINISHED, b'{"call_id":"not-a-uuid"}')
    own.append(FINISHED, json.dumps(json.loads(encode(event())) | {"http_status": 70_000}))
    own.append(FINISHED, encode(event(label="nul \0 inside", client="x" * 500)))
    drain.step()
    assert RequestRecord.objects.count() == 2
    assert QuarantinedEvent.objects.count() == 3
    assert RequestRecord.objects.filter(label="nul  inside", client="x" * 200).exists()


def test_what_only_the_database_refuses_is_found_among_many(own: Spool, drain: Drain) -> None:
    """Two huge costs fit their own column, but not the sum in the roll-up."""
    huge = 2**63 - 1
    for cost in (1, huge, 2, huge, 3):
        own.append(FINISHED, encode(event(cost_nano=cost)))
    drain.step()
    assert RequestRecord.objects.count() + QuarantinedEvent.objects.count() == 5
    assert (
        set(RequestRecord.objects.values_list("cost_nano", flat=True)) >= {1, 2, 3}
        or RequestRecord.objects.filter(cost_nano=huge).exists()
    )


def test_a_call_older_than_what_is_kept_is_not_recorded_again(own: Spool, drain: Drain) -> None:
    own.append(FINISHED, encode(event(started_ms=1_600_000_000_000)))
    drain.step()
    assert not RequestRecord.objects.exists()
    assert QuarantinedEvent.objects.get().reason == "The call is older than what is kept."


def test_a_drained_file_is_deleted_once_sealed_but_not_while_a_call_from_it_runs(tmp_path: Path) -> None:
    own = Spool(tmp_path, max_age=0.0)
    drain = Drain(own, 90)
    running = event()
    own.append(STARTED, encode(running))
    drain.step()
    drain.step()
    assert len(list(tmp_path.glob("*.spool"))) == 1
    own.append(FINISHED, encode(running))
    drain.step()
    drain.step()
    assert list(tmp_path.glob("*.spool")) == []
    assert RequestRecord.objects.count() == 1
    own.close()


def test_a_start_without_an_end_is_charged_as_held_when_its_process_is_gone(tmp_path: Path) -> None:
    dead = Spool(tmp_path)
    ended, orphan = event(), event(cost_nano=777, flags=("estimated", "orphaned"), http_status=500, status="INTERNAL")
    for each in (ended, orphan):
        dead.append(STARTED, encode(each))
    dead.append(FINISHED, encode(ended))
    dead.close()
    own = Spool(tmp_path)
    Drain(own, 90).step()
    assert RequestRecord.objects.count() == 2
    record = RequestRecord.objects.get(status="INTERNAL")
    assert (record.cost_nano, record.flags) == (777, ["estimated", "orphaned"])
    assert list(tmp_path.glob("*.spool")) == []
    own.close()


def test_files_of_a_living_process_are_left_alone(tmp_path: Path) -> None:
    other, own = Spool(tmp_path), Spool(tmp_path)
    other.append(STARTED, encode(event()))
    Drain(own, 90).step()
    assert not RequestRecord.objects.exists()
    assert spool.adopt(tmp_path) == []
    other.close()
    own.close()


def test_a_torn_last_line_harms_no_other(tmp_path: Path) -> None:
    dead = Spool(tmp_path)
    dead.append(FINISHED, encode(event()))
    path = dead.segments[0].path
    dead.close()
    with path.open("ab") as file:
        file.write(spool.encode(FINISHED, encode(event()))[:200])
    own = Spool(tmp_path)
    Drain(own, 90).step()
    assert RequestRecord.objects.count() == 1
    assert QuarantinedEvent.objects.get().reason == "The line is damaged."
    own.close()


def test_a_damaged_line_in_the_middle_harms_no_other(tmp_path: Path) -> None:
    dead = Spool(tmp_path)
    for _ in range(3):
        dead.append(FINISHED, encode(event()))
    path = dead.segments[0].path
    dead.close()
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(bytes(whole))
    own = Spool(tmp_path)
    Drain(own, 90).step()
    assert RequestRecord.objects.count() == 2
    assert QuarantinedEvent.objects.count() == 1
    own.close()


def test_labels_beyond_the_most_of_a_key_and_day_are_recorded_as_other(own: Spool, drain: Drain) -> None:
    for number in range(LABELS + 2):
        own.append(FINISHED, encode(event(label=f"user-{number}")))
    own.append(FINISHED, encode(event(label="user-0")))
    own.append(FINISHED, encode(event(label="user-x", key_id="key-2")))
    own.append(FINISHED, encode(event(label="user-x", started_ms=time.time_ns() // 1_000_000 - 86_400_000)))
    drain.step()
    counted = dict(UsageBucket.objects.filter(width=86_400).values_list("label").annotate(sum=Sum("requests")))
    assert (len(counted), counted["other"], counted["user-0"], counted["user-x"]) == (LABELS + 2, 2, 2, 2)
    assert RequestRecord.objects.filter(label="other").count() == 2, "records and roll-ups say the same"
