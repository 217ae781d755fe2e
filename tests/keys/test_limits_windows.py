"""Periods and waiting times: pure arithmetic, across clock changes and time zones."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keys.limits.base import Ask
from keys.limits.windows import NEVER, SOON, Plan, Plans, asked, place, span, tightest, wait
from tests.keys.limiting import NOON, rule

ZONES = [
    "UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "America/Havana", "Asia/Beirut",
    "America/Santiago", "America/Sao_Paulo", "Pacific/Apia", "Africa/Cairo",
]  # fmt: skip


@given(
    at=st.floats(datetime(2009, 1, 1, tzinfo=UTC).timestamp(), datetime(2035, 1, 1, tzinfo=UTC).timestamp()),
    zone=st.sampled_from(ZONES),
    period=st.sampled_from(["day", "week", "month"]),
)
@example(at=2051222399.9999998, zone="UTC", period="day")  # less than a microsecond before midnight
def test_every_moment_lies_in_exactly_one_period_and_periods_follow_each_other(
    at: float, zone: str, period: str
) -> None:
    now = span(period, at, zone)
    assert now.begins <= at < now.ends
    following = span(period, now.ends, zone)
    assert following.begins == now.ends
    assert following.name > now.name
    last = span(period, now.begins - 1, zone)
    assert last.ends == now.begins
    assert last.name < now.name


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", "2026-03-29", 23),
        ("Europe/Berlin", "2026-10-25", 25),
        ("Asia/Beirut", "2021-03-28", 23),  # the clocks jump at midnight: the day begins at 01:00
        ("America/Havana", "2021-11-07", 25),  # midnight comes twice... at 01:00
        ("Australia/Lord_Howe", "2026-04-05", 24.5),
        ("Asia/Kathmandu", "2026-04-05", 24),
    ],
)
def test_a_day_is_as_long_as_its_clock_says(zone: str, day: str, hours: float) -> None:
    noon = datetime.fromisoformat(f"{day}T12:00").replace(tzinfo=ZoneInfo(zone)).timestamp()
    found = span("day", noon, zone)
    assert found.name == day
    assert (found.ends - found.begins) / 3600 == hours


@pytest.mark.parametrize(
    ("period", "name"),
    [("day", "2026-11-25"), ("week", "2026-W48"), ("month", "2026-11"), ("lifetime", "-"), ("hour", "-")],
)
def test_periods_have_names(period: str, name: str) -> None:
    assert span(period, NOON, "UTC").name == name  # type: ignore[arg-type]  # parametrised


def test_the_last_days_of_december_may_be_in_the_first_week_of_the_next_year() -> None:
    assert span("week", datetime(2024, 12, 30, 12, tzinfo=UTC).timestamp(), "UTC").name == "2025-W01"


def test_a_time_zone_nobody_knows_is_utc() -> None:
    assert span("day", NOON, "Mars/Olympus") == span("day", NOON, "UTC")


def test_a_plan_lasts_until_the_next_period_begins() -> None:
    plans, rules = Plans(), (rule("spend", "month"), rule("spend", "day"), rule())
    first = plans.at("org", rules, NOON, "UTC")
    assert plans.at("org", rules, first.ends - 1, "UTC") is first
    assert plans.at("org", rules, first.ends, "UTC") is not first
    assert plans.at("org", rules, first.ends, "Asia/Tokyo").time_zone == "Asia/Tokyo"


def test_a_counter_keeps_its_name_with_the_amount_and_changes_it_with_what_is_counted() -> None:
    same = rule(id="a", amount=1)
    assert place(same, NOON, "UTC").counter == place(rule(id="a", amount=2, hard=False), NOON, "UTC").counter
    others = [rule(id="a", metric="tokens"), rule(id="a", period="day"), rule(id="a", pattern="x*"), rule(id="b")]
    assert len({place(each, NOON, "UTC").counter for each in [same, *others]}) == 5


@pytest.mark.parametrize(
    ("period", "ask", "total", "held", "buckets", "seconds"),
    [
        ("day", 11, 0, 0, [], NEVER),  # more than there ever is
        ("day", 5, 8, 4, [], SOON),  # a call under way may give enough back
        ("day", 5, 8, 0, [], 12 * 3600),
        ("lifetime", 5, 8, 0, [], NEVER),
        ("minute", 1, 10, 0, [(NOON - 30, 4), (NOON - 20, 6)], 31),  # the sub-window of one second has to leave whole
        ("minute", 5, 10, 0, [(NOON - 30, 4), (NOON - 20, 6)], 41),
    ],
)  # fmt: skip
def test_the_time_to_wait_is_true(
    period: str, ask: int, total: int, held: int, buckets: list[tuple[float, int]], seconds: float
) -> None:
    where = place(rule("tokens", period, 10), NOON, "UTC")
    numbered = [(int(at), value) for at, value in buckets]
    assert wait(where, ask, total, held, NOON, numbered) == seconds


def test_what_a_call_asks_stays_where_lua_counts_exactly() -> None:
    assert max(asked(Ask("id", "m", 10**18, 10**30))) < 2**52


def test_soft_limits_are_never_the_tightest() -> None:
    plan = Plan("org", [rule(amount=10), rule("tokens", "day", 10, hard=False)], NOON, "UTC")
    standing = tightest(plan, [5, 9], NOON)
    assert standing is not None
    assert (standing.rule.metric, standing.remaining) == ("requests", 5)
    assert tightest(Plan("org", [rule(hard=False)], NOON, "UTC"), [9], NOON) is None
