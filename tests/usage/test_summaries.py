"""Dashboards' questions, against sums made by hand from the same events."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise, product
from zoneinfo import ZoneInfo

import pytest

from lib import json
from tests.usage.events import event
from usage import ledger, records, summaries
from usage.event import Tokens, UsageEvent
from usage.flight import encode
from usage.rollups import DAY, MINUTE, QUARTER
from usage.summaries import Filters, Period

pytestmark = pytest.mark.django_db

EVERYTHING = Filters(organizations=None)
BERLIN, DELHI = ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Kolkata")


def at(text: str, zone: ZoneInfo | None = None) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone or UTC)


def call(when: datetime, **given: object) -> UsageEvent:
    return event(started_ms=int(when.timestamp() * 1000), **given)


def record(events: list[UsageEvent]) -> None:
    ledger.record([records.row(json.loads(encode(each))) for each in events])


STATUSES = ["OK"] * 6 + ["RESOURCE_EXHAUSTED", "UNAVAILABLE", "CANCELLED"]


@pytest.fixture
def events(db: None) -> list[UsageEvent]:
    """600 calls over ten weeks across a change to winter time, of two organizations."""
    chance = random.Random(7)
    start = at("2026-09-01T00:00")
    made = []
    for _ in range(600):
        number = chance.randrange(6)
        tokens = Tokens(prompt=chance.randrange(1000), cached=3, candidates=chance.randrange(500), thoughts=2)
        made.append(
            call(
                start + timedelta(seconds=chance.randrange(70 * DAY)),
                organization_id=f"org-{number % 2}",
                key_id=f"key-{number}",
                key=f"key {number}",
                model=f"model-{chance.randrange(3)}",
                deployment_id=f"deployment-{chance.randrange(2)}",
                deployment=f"place {number}",
                status=chance.choice(STATUSES),
                tokens=tokens,
                cost_nano=chance.randrange(10**9),
                total_ms=chance.randrange(5000),
                ttft_ms=chance.choice([None, chance.randrange(1000)]),
            )
        )
    record(made)
    return made


def started(each: UsageEvent) -> datetime:
    return datetime.fromtimestamp(each.started_ms / 1000, UTC)


PERIODS = [
    Period(at("2026-09-01T00:00"), at("2026-11-10T00:00")),
    Period(at("2026-09-03T07:15"), at("2026-09-03T19:45")),
    Period(at("2026-09-03T00:00", BERLIN), at("2026-10-28T00:00", BERLIN), BERLIN),
    Period(at("2026-09-03T00:00", DELHI), at("2026-10-01T00:00", DELHI), DELHI),
]


def test_cards_are_exact_whatever_rows_they_are_read_from(events: list[UsageEvent]) -> None:
    for period in PERIODS:
        inside = [each for each in events if period.start <= started(each) < period.end]
        totals = summaries.totals(period, EVERYTHING)
        assert totals.requests == len(inside), period
        assert totals.spend == sum(each.cost_nano or 0 for each in inside), period
        assert totals.ok == sum(each.status == "OK" for each in inside), period
        assert totals.rate_limited == sum(each.status == "RESOURCE_EXHAUSTED" for each in inside), period
        assert totals.failed == sum(each.status == "UNAVAILABLE" for each in inside), period
        assert totals.input_tokens == sum(each.tokens.prompt for each in inside), period
        assert totals.output_tokens == sum(each.tokens.candidates + each.tokens.thoughts for each in inside), period
        assert totals.active_keys == len({each.key_id for each in inside}), period


def test_days_and_months_follow_the_clock_of_the_zone(events: list[UsageEvent]) -> None:
    steps: tuple[summaries.Step, ...] = ("day", "month")
    for period, step in product(PERIODS, steps):
        assert_follows_the_clock(events, period, step)


def assert_follows_the_clock(events: list[UsageEvent], period: Period, step: summaries.Step) -> None:
    found = summaries.series(period, EVERYTHING, "spend", by="model", step=step)
    by_hand: dict[tuple[str, datetime], int] = {}
    for each in events:
        if period.start <= started(each) < period.end:
            key = (each.model, summaries.floor(started(each).astimezone(period.zone), step))
            by_hand[key] = by_hand.get(key, 0) + (each.cost_nano or 0)
    read = {
        (line.id, when): value
        for line in found.lines
        for when, value in zip(found.steps, line.values, strict=True)
        if value
    }
    assert read == {key: value for key, value in by_hand.items() if value}, (period, step)


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", "2026-10-25", 25),  # set back
        ("Europe/Berlin", "2026-03-29", 23),  # set forward
        ("Asia/Kolkata", "2026-10-25", 24),  # half an hour beside UTC
        ("Australia/Lord_Howe", "2026-04-05", 25),  # set back by half an hour: the last hour is half a one
    ],
)
def test_hours_do_not_double_or_vanish_when_the_clock_changes(db: None, zone: str, day: str, hours: int) -> None:
    there = ZoneInfo(zone)
    first = at(f"{day}T00:00", there)
    period = Period(first, (first.replace(tzinfo=None) + timedelta(days=1)).replace(tzinfo=there), there)
    record([call(first.astimezone(UTC) + timedelta(minutes=20 + 60 * hour), cost_nano=1) for hour in range(hours)])
    found = summaries.series(period, EVERYTHING, "requests", step="hour")
    assert len(found.steps) == hours
    assert found.lines[0].values == [1] * hours


def test_one_sees_no_other_organization(events: list[UsageEvent]) -> None:
    mine = Filters(organizations=["org-0"])
    found = summaries.totals(PERIODS[0], mine)
    assert found.requests == sum(each.organization_id == "org-0" for each in events)
    assert {key.id for key in summaries.top_keys(PERIODS[0], mine)} <= {"key-0", "key-2", "key-4"}
    nobody = Filters(organizations=[])
    assert summaries.totals(PERIODS[0], nobody).requests == 0
    assert summaries.top_keys(PERIODS[0], nobody) == []
    assert summaries.recent_errors(PERIODS[0], nobody) == []
    assert summaries.deployments(PERIODS[0], nobody) == []
    assert summaries.explore(PERIODS[0], nobody).entries == []


def test_what_is_not_among_the_top_is_other_and_nothing_is_lost(events: list[UsageEvent]) -> None:
    found = summaries.explore(PERIODS[0], EVERYTHING, "spend", "key", "model", top=2)
    assert [entry.name for entry in found.entries][2:] == ["Other"]
    assert sum(entry.value or 0 for entry in found.entries) == found.total
    assert sum(entry.share or 0 for entry in found.entries) == pytest.approx(1)
    for entry in found.entries:
        assert sum(part.value or 0 for part in entry.parts) == entry.value
        assert sum(value or 0 for value in entry.values) == entry.value


NOW = datetime.now(UTC).replace(microsecond=0)
LATELY = Period(NOW.replace(hour=0, minute=0, second=0) - timedelta(days=79), NOW)
MINE = Filters(organizations=["org-1"])


@pytest.fixture
def crowd(db: None) -> list[UsageEvent]:
    """51 keys up to now, days that are over and the last hour, and the busiest key of all with a stranger."""
    chance = random.Random(11)

    def calls(number: int, count: int, **given: object) -> list[UsageEvent]:
        return [
            call(
                NOW - timedelta(seconds=chance.randrange(1, chance.choice([3_600, 79 * DAY]))),
                key_id=f"key-{number:02}",
                key=f"key {number:02}",
                label=f"user-{chance.randrange(3 + number % 4)}",
                status="UNAVAILABLE" if turn % 3 == 1 else "RESOURCE_EXHAUSTED" if turn % 3 == 2 else "OK",
                tokens=Tokens(prompt=9, cached=1 + number % 5, candidates=chance.randrange(1, 50), thoughts=3),
                cost_nano=chance.randrange(1, 10**9),
                total_ms=chance.randrange(1, 5000),
                ttft_ms=chance.choice([None, chance.randrange(1, 1000)]),
                **given,
            )
            for turn in range(count)
        ]

    mine = [each for number in range(51) for each in calls(number, 3 + number // 10, organization_id="org-1")]
    record(mine)
    record(calls(99, 60, organization_id="org-2", organization="Globex"))
    return mine


def test_top_fifty_and_other_make_the_total(crowd: list[UsageEvent]) -> None:
    for metric, subgroup in product(sorted(summaries.ADDITIVE), [None, "label"]):
        assert_adds_up(crowd, metric, summaries.explore(LATELY, MINE, metric, "key", subgroup, top=50))


def assert_adds_up(crowd: list[UsageEvent], metric: str, found: summaries.Exploration) -> None:
    by_hand: dict[str, int] = {}
    for each in crowd:
        by_hand[each.key_id] = by_hand.get(each.key_id, 0) + amount(each, metric)
    assert found.total == sum(by_hand.values()) > 0, metric
    assert len(found.entries) == 51, metric
    other = found.entries[-1]
    assert (other.id, other.name, other.value) == ("", "Other", min(by_hand.values())), f"{metric}: the 51st alone"
    assert [entry.value for entry in found.entries[:-1]] == sorted(by_hand.values(), reverse=True)[:50], metric
    for entry in found.entries:
        assert entry.id == "" or entry.value == by_hand[entry.id], metric
        assert sum(value or 0 for value in entry.values) == entry.value, metric
        assert not entry.parts or sum(part.value or 0 for part in entry.parts) == entry.value, metric
    by_step = [sum(value or 0 for value in values) for values in zip(*[e.values for e in found.entries], strict=True)]
    assert by_step == summaries.series(LATELY, MINE, metric).lines[0].values, metric


def amount(each: UsageEvent, metric: str) -> int:
    """What one call adds to a metric."""
    tokens = each.tokens
    match metric:
        case "spend":
            return each.cost_nano or 0
        case "requests":
            return 1
        case "errors":
            return int(each.status == "UNAVAILABLE")
        case "rate_limited":
            return int(each.status == "RESOURCE_EXHAUSTED")
        case "input_tokens":
            return tokens.prompt
        case "output_tokens":
            return tokens.candidates + tokens.thoughts
    return {"cached_tokens": tokens.cached, "thoughts_tokens": tokens.thoughts}[metric]


def test_other_is_what_its_groups_would_say_together(crowd: list[UsageEvent]) -> None:
    """Averages and percentiles cannot be added up: Other's is that of the calls of its keys, in total and by step."""
    for metric in sorted(set(summaries.METRIC_NAMES) - summaries.ADDITIVE):
        found = summaries.explore(LATELY, MINE, metric, "key", step="month", top=40)
        assert found.total == summaries.explore(LATELY, MINE, metric, "organization", step="month").total, metric
        kept = {entry.id for entry in found.entries[:-1]}
        assert len(kept) == 40, metric
        others = Filters(organizations=["org-1"], keys=sorted({each.key_id for each in crowd} - kept))
        alone = summaries.explore(LATELY, others, metric, "organization", step="month").entries[0]
        assert (found.entries[-1].name, found.entries[-1].value) == ("Other", alone.value), metric
        assert found.entries[-1].values == alone.values, metric


def test_parts_beyond_the_top_are_other_in_each_group_and_in_other(crowd: list[UsageEvent]) -> None:
    found = summaries.explore(LATELY, MINE, "requests", "key", "label", top=2)
    by_hand: dict[tuple[str, str], int] = {}
    kept = {entry.id for entry in found.entries[:2]}
    for each in crowd:
        place = (each.key_id if each.key_id in kept else "", each.label)
        by_hand[place] = by_hand.get(place, 0) + 1
    assert len(found.entries) == 3
    for entry in found.entries:
        mine = {label: count for (place, label), count in by_hand.items() if place == entry.id}
        largest = sorted(mine.values(), reverse=True)
        assert [part.value for part in entry.parts] == [*largest[:2], *([sum(largest[2:])] if largest[2:] else [])]
        assert all(part.value == mine[part.id] for part in entry.parts if part.name != "Other")
    assert found.entries[2].parts[-1].name == "Other"


def test_a_series_tells_the_same_others(crowd: list[UsageEvent]) -> None:
    lines = summaries.series(LATELY, MINE, "requests", by="key", top=50).lines
    assert len(lines) == 51
    assert lines[-1].name == "Other"
    assert sum(line.total or 0 for line in lines) == len(crowd)
    assert summaries.series(LATELY, Filters(organizations=[]), "requests", by="key").lines == []


def test_an_export_tells_every_group(crowd: list[UsageEvent]) -> None:
    rows = list(summaries.each(LATELY, MINE, "spend", ["key", "label"], "month"))
    assert sum(row[-1] for row in rows) == sum(each.cost_nano or 0 for each in crowd)
    assert {(row[1], row[2]) for row in rows} == {(each.key_id, each.key) for each in crowd}
    assert {(row[3], row[4]) for row in rows} == {(each.label, each.label) for each in crowd}


def test_every_metric_can_be_explored(events: list[UsageEvent]) -> None:
    for metric in summaries.METRIC_NAMES:
        found = summaries.explore(PERIODS[0], EVERYTHING, metric, "organization", step="month")
        assert len(found.entries) == 2, metric
        assert all(len(entry.values) == 3 for entry in found.entries), metric


def test_one_may_group_by_every_dimension(events: list[UsageEvent]) -> None:
    for dimension in summaries.DIMENSIONS:
        found = summaries.explore(PERIODS[0], EVERYTHING, "requests", dimension, step="month", top=100)
        assert sum(entry.value or 0 for entry in found.entries) == 600, dimension


def test_percentiles_come_from_the_merged_histograms(events: list[UsageEvent]) -> None:
    values = sorted(each.ttft_ms for each in events if each.ttft_ms is not None)
    exact = values[round(len(values) * 0.95)]
    found = summaries.totals(PERIODS[0], EVERYTHING).ttft_p95
    assert found is not None
    assert exact / 1.5 <= found <= exact * 1.5


def test_errors_are_grouped_and_counted(events: list[UsageEvent]) -> None:
    found = summaries.recent_errors(PERIODS[0], EVERYTHING, limit=100)
    assert sum(group.requests for group in found) == sum(each.status not in ("OK", "CANCELLED") for each in events)
    assert {group.status for group in found} == {"UNAVAILABLE", "RESOURCE_EXHAUSTED"}


def test_the_latest_error_is_told_to_the_quarter_of_an_hour(events: list[UsageEvent]) -> None:
    latest: dict[tuple[str, str, str], int] = {}
    for each in events:
        key = (each.status, each.model, each.deployment_id)
        latest[key] = max(latest.get(key, 0), each.started_ms // 900_000 * 900)
    found = summaries.recent_errors(PERIODS[0], EVERYTHING, limit=100)
    assert found
    for group in found:
        assert group.last.timestamp() == latest[(group.status, group.model, group.deployment_id)]


def test_deployments_share_all_calls(events: list[UsageEvent]) -> None:
    found = summaries.deployments(PERIODS[0], EVERYTHING)
    assert sum(each.requests for each in found) == 600
    assert sum(each.share for each in found) == pytest.approx(1)
    assert all(each.total_p95 and each.error_rate for each in found)


def test_outcomes_add_up_to_all_calls(events: list[UsageEvent]) -> None:
    found = summaries.outcomes(PERIODS[2], EVERYTHING)
    inside = [each for each in events if PERIODS[2].start <= started(each) < PERIODS[2].end]
    assert sum(map(sum, (found.ok, found.failed, found.cancelled, found.rate_limited))) == len(inside)
    assert len(found.ok) == len(found.steps) == len(found.ttft_p95) == 55


def test_a_change_against_the_period_before_is_none_when_there_was_nothing(events: list[UsageEvent]) -> None:
    assert summaries.overview(PERIODS[0], EVERYTHING).change("spend") is None
    later = summaries.overview(Period(at("2026-10-01T00:00"), at("2026-10-11T00:00")), EVERYTHING)
    assert later.change("requests") == (later.now.requests - later.before.requests) / later.before.requests
    assert later.now == summaries.totals(Period(at("2026-10-01T00:00"), at("2026-10-11T00:00")), EVERYTHING)
    earlier = summaries.totals(Period(at("2026-09-21T00:00"), at("2026-10-01T00:00")), EVERYTHING)
    assert (later.before.spend, later.before.requests) == (earlier.spend, earlier.requests)
    assert later.keys == summaries.top_keys(Period(at("2026-10-01T00:00"), at("2026-10-11T00:00")), EVERYTHING)


def test_minutes_are_read_where_they_are_kept(db: None) -> None:
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    record([call(now - timedelta(minutes=back), cost_nano=1) for back in range(1, 61)])
    period = Period(now - timedelta(minutes=37), now)
    assert summaries.totals(period, EVERYTHING).requests == 37
    found = summaries.series(period, EVERYTHING, "requests", step="minute")
    assert found.lines[0].values == [1] * 37


def test_days_of_a_long_period_are_those_of_utc_and_nothing_is_lost(events: list[UsageEvent]) -> None:
    period = Period(at("2026-09-01T00:00", BERLIN), at("2026-11-20T00:00", BERLIN), BERLIN)
    found = summaries.series(period, EVERYTHING, "requests")
    assert all(when.utcoffset() == timedelta(0) and when.hour == 0 for when in found.steps)
    assert found.lines[0].total == sum(each >= period.start for each in map(started, events))
    assert sum(value or 0 for value in found.lines[0].values) == found.lines[0].total


def test_too_fine_a_step_is_refused() -> None:
    with pytest.raises(summaries.TooFine):
        summaries.series(PERIODS[0], EVERYTHING, step="minute")


@pytest.mark.parametrize("minutes_from", [0, 2**40])
def test_pieces_cover_a_range_once(minutes_from: int) -> None:
    chance = random.Random(3)
    for _ in range(200):
        start = chance.randrange(10 * DAY)
        end = start + chance.randrange(1, 5 * DAY)
        found = list(summaries.pieces(start, end, minutes_from))
        fine = MINUTE if minutes_from == 0 else QUARTER
        assert found[0][1] == start - start % fine
        assert found[-1][2] == -(-end // fine) * fine
        for (_, _, stop), (_, begin, _) in pairwise(found):
            assert stop == begin
        assert all(low % width == 0 and high % width == 0 and low < high for width, low, high in found)


def test_the_minute_that_began_in_this_second_is_part_of_the_period() -> None:
    begun = at("2026-05-04T12:30")
    record([call(begun)])
    hour = timedelta(hours=1)
    assert summaries.totals(Period(begun - hour, begun + timedelta(milliseconds=700)), EVERYTHING).requests == 1
    assert summaries.totals(Period(begun - hour, begun), EVERYTHING).requests == 0
