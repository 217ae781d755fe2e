"""The breaker, step by step: what opens it, for how long, and how it closes."""

from __future__ import annotations

from typing import get_args

import pytest

from routing.breaker import EFFECTS, Breaker
from routing.errors import CLIENT_FAULT, Kind

FAILURES = sorted(kind for kind, effect in EFFECTS.items() if effect == "failure")


def failed(breaker: Breaker, kind: Kind, now: float, times: int = 1, **given: object) -> bool:
    kept_away = False
    for _ in range(times):
        kept_away = breaker.failed(kind, now, **({"jitter": 0.5} | given))  # type: ignore[arg-type]
    return kept_away


def test_every_kind_of_error_has_an_effect() -> None:
    assert set(EFFECTS) == set(get_args(Kind))


@pytest.mark.parametrize("kind", sorted(CLIENT_FAULT | {"conflict"}))
def test_what_the_caller_did_wrong_never_counts(kind: Kind) -> None:
    breaker = Breaker()
    assert not failed(breaker, kind, 0, times=100)
    assert breaker.usable(0)
    assert breaker.recent.totals(0) == (0, 0)


@pytest.mark.parametrize("kind", FAILURES)
def test_five_failures_in_a_row_open_it_for_five_seconds(kind: Kind) -> None:
    breaker = Breaker()
    assert not failed(breaker, kind, 100, times=4)
    assert failed(breaker, kind, 100)
    assert breaker.state(104.9) == "open"
    assert breaker.state(105) == "half_open"


def test_a_success_between_failures_keeps_it_closed() -> None:
    breaker = Breaker()
    for _ in range(4):
        failed(breaker, "server", 0, times=4)
        breaker.succeeded(0)
    assert breaker.state(0) == "closed"


@pytest.mark.parametrize(("jitter", "seconds"), [(0.0, 4.5), (0.5, 5.0), (1.0, 5.5)])
def test_the_opening_is_spread_by_a_tenth_to_each_side(jitter: float, seconds: float) -> None:
    breaker = Breaker()
    failed(breaker, "server", 0, times=5, jitter=jitter)
    assert breaker.open_until == pytest.approx(seconds)


def test_each_failed_probe_doubles_the_opening_up_to_five_minutes() -> None:
    breaker, now, spans = Breaker(), 0.0, []
    failed(breaker, "server", now, times=5)
    for _ in range(8):
        spans.append(breaker.open_until - now)
        now = breaker.open_until
        breaker.probing = True
        failed(breaker, "server", now, probe=True)
        breaker.probing = False
    assert spans == pytest.approx([5, 10, 20, 40, 80, 160, 300, 300])


def test_one_probe_at_a_time_and_two_good_ones_close_it() -> None:
    breaker = Breaker()
    failed(breaker, "server", 0, times=5)
    assert breaker.usable(5)
    breaker.probing = True
    assert not breaker.usable(5)
    assert not breaker.succeeded(5, probe=True)
    breaker.probing = False
    assert breaker.state(5) == "half_open"
    assert breaker.succeeded(6, probe=True)
    assert breaker.state(6) == "closed"


def test_without_a_permit_a_half_open_one_is_not_usable() -> None:
    breaker = Breaker()
    failed(breaker, "server", 0, times=5)
    breaker.permitted = False
    assert not breaker.usable(5)


def test_calls_from_before_the_opening_change_nothing() -> None:
    breaker = Breaker()
    failed(breaker, "server", 0, times=5)
    assert not failed(breaker, "server", 1, times=20), "late failures do not lengthen it"
    assert not breaker.succeeded(6), "a late success is not a probe"
    assert breaker.state(6) == "half_open"
    assert not failed(breaker, "server", 6)
    assert breaker.open_until == 5


def test_a_quiet_minute_forgets_one_earlier_opening() -> None:
    breaker = Breaker()
    failed(breaker, "server", 0, times=5)
    breaker.succeeded(6, probe=True)
    breaker.succeeded(6, probe=True)
    assert breaker.openings == 1
    breaker.succeeded(65)
    assert breaker.openings == 1
    breaker.succeeded(67)
    assert breaker.openings == 0


@pytest.mark.parametrize(
    ("good", "bad", "opens"),
    [(10, 10, False), (9, 11, True), (8, 11, False), (0, 4, False), (100, 99, False), (100, 101, True)],
)  # fmt: skip
def test_more_than_half_of_at_least_twenty_calls_open_it(good: int, bad: int, opens: bool) -> None:
    breaker = Breaker()
    for _ in range(good):
        breaker.succeeded(10)
    for _ in range(bad):
        breaker.consecutive = 0  # only the ratio is looked at here
        failed(breaker, "server", 10)
    assert breaker.state(10) == ("open" if opens else "closed")


def test_the_ratio_forgets_after_thirty_seconds() -> None:
    breaker = Breaker()
    for _ in range(19):
        breaker.consecutive = 0
        failed(breaker, "server", 0)
    breaker.consecutive = 0
    assert not failed(breaker, "server", 31)


def test_the_last_one_is_never_opened_on_the_ratio_alone() -> None:
    breaker = Breaker()
    for _ in range(100):
        breaker.consecutive = 0
        failed(breaker, "server", 0, spare_on_ratio=True)
    assert breaker.state(0) == "closed"
    assert failed(breaker, "server", 0, times=4, spare_on_ratio=True), "but five in a row open it too"


@pytest.mark.parametrize(
    ("asked", "seconds"), [(7.0, 7), (0.2, 1), (3600.0, 300), (None, 5), (0.0, 5), (-3.0, 5)]
)  # fmt: skip
def test_a_rate_limit_cools_as_long_as_it_asks_and_needs_no_probe(asked: float | None, seconds: float) -> None:
    breaker = Breaker()
    assert failed(breaker, "rate_limited", 100, retry_after=asked)
    assert breaker.state(100 + seconds - 0.01) == "cooling"
    assert breaker.state(100 + seconds) == "closed"
    assert breaker.usable(100 + seconds)


def test_rate_limits_without_a_word_cool_longer_each_time_up_to_a_minute() -> None:
    breaker, now, spans = Breaker(), 0.0, []
    for _ in range(6):
        failed(breaker, "rate_limited", now)
        failed(breaker, "rate_limited", now + 0.1, times=50)  # the others that were in flight
        spans.append(breaker.cooling_until - now)
        now = breaker.cooling_until
    assert spans == pytest.approx([5, 10, 20, 40, 60, 60])
    breaker.succeeded(now)
    failed(breaker, "rate_limited", now)
    assert breaker.cooling_until - now == 5


def test_rate_limits_are_not_bad_health() -> None:
    breaker = Breaker()
    failed(breaker, "rate_limited", 0, times=50, retry_after=1.0)
    assert breaker.recent.totals(0) == (0, 0)
    assert not breaker.trial


def test_an_unavailable_one_may_ask_for_a_pause_but_not_for_minutes() -> None:
    breaker = Breaker()
    assert failed(breaker, "unavailable", 0, retry_after=600.0)
    assert breaker.blocked_until == 30
    assert failed(Breaker(), "server", 0, retry_after=600.0) is False, "other failures may not"


@pytest.mark.parametrize("kind", ["credential", "billing", "not_found"])
def test_what_only_an_operator_can_mend_holds_for_ten_minutes(kind: Kind) -> None:
    breaker = Breaker()
    assert failed(breaker, kind, 0)
    assert not failed(breaker, kind, 1, times=30), "the others in flight say nothing new"
    assert breaker.state(599) == "held"
    assert breaker.state(600) == "half_open"
    assert breaker.openings == 1
    breaker.reset()
    assert breaker.state(1) == "closed"


def test_what_another_process_found_out_only_ever_lengthens() -> None:
    breaker = Breaker()
    breaker.mirror(0, open_until=50, cooling_until=0, cause="server", openings=3)
    assert (breaker.state(49), breaker.state(50), breaker.openings) == ("open", "half_open", 3)
    breaker.mirror(0, open_until=20, cooling_until=0, cause="server", openings=1)
    assert breaker.open_until == 50
    breaker.mirror(0, open_until=0, cooling_until=60, cause="rate_limited", openings=0)
    assert breaker.state(55) == "cooling"
