"""The strategies as tables: who is chosen, and what is said about it."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from routing.breaker import Breaker
from routing.scores import STALE, Latency, Minute, RetryBudget, Score, Tally, percentile, size_factor
from routing.strategies import STRATEGIES, Draw, pair
from tests.routing.simulation import deployment

NOW = 1_000.0


def score(name: str, *, seconds: float | None = 0.2, running: int = 0, price: int | None = None, at: float = NOW, **given: object) -> Score:  # fmt: skip
    made = Score(deployment(name, **given), Breaker(), running=running, price=price)
    if seconds is not None:
        made.streams = Latency(seconds, at, samples=10)
    return made


def chosen(strategy: str, *scores: Score, times: int = 1000, seed: int = 1) -> Counter[str]:
    draw = Draw(NOW, True, Random(seed))
    return Counter(STRATEGIES[strategy].choose(scores, draw)[0].entry.name for _ in range(times))


def reason(strategy: str, *scores: Score) -> str:
    return STRATEGIES[strategy].choose(scores, Draw(NOW, True, Random(1)))[1]


# latency


def test_the_faster_of_two_takes_every_call() -> None:
    assert chosen("latency", score("fast", seconds=0.05), score("slow")) == {"fast": 1000}


def test_four_calls_in_flight_do_not_push_calls_to_one_four_times_slower_but_hundreds_do() -> None:
    assert chosen("latency", score("fast", seconds=0.05, running=4), score("slow")) == {"fast": 1000}
    assert chosen("latency", score("fast", seconds=0.05, running=400), score("slow", running=50)) == {"slow": 1000}


def test_with_the_same_latency_the_less_busy_one_is_taken_by_weight() -> None:
    assert chosen("latency", score("a", running=9), score("b", running=5)) == {"b": 1000}
    assert chosen("latency", score("a", running=9, weight=3), score("b", running=5)) == {"a": 1000}


def test_one_never_measured_goes_first_but_one_call_at_a_time() -> None:
    assert chosen("latency", score("known"), score("new", seconds=None)) == {"new": 1000}
    assert chosen("latency", score("known"), score("new", seconds=None, running=1)) == {"known": 1000}


def test_one_not_measured_for_a_while_is_looked_at_now_and_then() -> None:
    counts = chosen("latency", score("fast", seconds=0.05), score("slow", at=NOW - STALE - 1))
    assert 30 < counts["slow"] < 100
    assert chosen("latency", score("fast", seconds=0.05), score("slow", at=NOW - STALE + 1)) == {"fast": 1000}


def test_the_slowest_of_many_never_wins_a_draw_of_two() -> None:
    counts = chosen("latency", *(score(f"d{number}", seconds=0.1 + number / 100) for number in range(20)))
    assert counts["d19"] == 0
    assert counts["d0"] > counts["d10"] > 0


def test_heavier_ones_are_drawn_more_often() -> None:
    random, heavy = Random(1), [score("heavy", weight=10), *(score(f"d{number}") for number in range(9))]
    drawn = Counter(each.entry.name for _ in range(2000) for each in pair(heavy, random))
    assert drawn["heavy"] > 5 * drawn["d0"]
    assert all(one is not other for one, other in (pair(heavy, random) for _ in range(500)))


def test_streams_and_whole_answers_are_measured_apart() -> None:
    one, other = score("one", seconds=0.1), score("other", seconds=0.3)
    one.answers, other.answers = Latency(9.0, NOW, 5), Latency(3.0, NOW, 5)
    draw = Draw(NOW, False, Random(1))
    assert STRATEGIES["latency"].choose([one, other], draw)[0] is other
    assert chosen("latency", one, other) == {"one": 1000}


# the others


def test_weights_are_shares() -> None:
    counts = chosen("weighted", score("a", weight=6), score("b", weight=3), score("c", weight=1), times=10_000)
    assert [round(counts[name] / 1000) for name in "abc"] == [6, 3, 1]


@pytest.mark.parametrize(
    ("busy", "weights", "expected"),
    [((3, 1, 2), (1, 1, 1), {"d1"}), ((3, 1, 1), (1, 1, 1), {"d1", "d2"}), ((6, 3, 4), (3, 1, 1), {"d0"})],
)  # fmt: skip
def test_the_least_busy_by_weight(busy: tuple[int, ...], weights: tuple[int, ...], expected: set[str]) -> None:
    scores = [score(f"d{at}", running=here, weight=weights[at]) for at, here in enumerate(busy)]
    assert set(chosen("least_busy", *scores)) == expected


def test_calls_of_other_processes_count_as_busy() -> None:
    one, other = score("one", running=1), score("other")
    other.elsewhere = 2
    assert chosen("least_busy", one, other) == {"one": 1000}


@pytest.mark.parametrize(
    ("prices", "expected"),
    [((5, 3, 9), {"d1"}), ((5, None, 9), {"d0"}), ((0, 3, None), {"d0"}), ((3, 3, 9), {"d0"}), ((None, None, None), {"d0"})],
)  # fmt: skip
def test_the_cheapest_and_the_fastest_of_the_cheapest(prices: tuple[int | None, ...], expected: set[str]) -> None:
    scores = [score(f"d{at}", seconds=0.1 + at, price=price) for at, price in enumerate(prices)]
    counts = chosen("cheapest", *scores)
    assert set(counts) - {"d1"} == expected - {"d1"}
    assert max(counts, key=lambda name: counts[name]) in expected


def test_failover_takes_the_first() -> None:
    assert chosen("failover", score("a", seconds=9.0, running=90), score("b")) == {"a": 1000}


@pytest.mark.parametrize("strategy", sorted(STRATEGIES))
def test_every_strategy_answers_for_one_candidate_and_says_why(strategy: str) -> None:
    assert chosen(strategy, score("a")) == {"a": 1000}
    assert reason(strategy, score("a"))
    assert reason(strategy, score("a"), score("b"))


def test_the_reason_names_both_with_their_figures() -> None:
    said = reason("latency", score("fast", seconds=0.05, running=2), score("slow", seconds=0.2))
    assert said == "faster of two: fast (50 ms, 2 in flight) against slow (200 ms, 0 in flight)"


# the arithmetic below


def test_latency_climbs_in_a_few_samples_and_falls_with_time() -> None:
    latency = Latency()
    latency.observe(0.1, 0, 0.0)
    assert latency.value == 0.1
    for step in range(1, 6):
        latency.observe(1.0, 0, step * 0.01)
    assert latency.value > 0.85
    latency.observe(0.1, 0, 0.06)
    assert latency.value > 0.8, "one fast answer does not make it fast"
    latency.observe(0.1, 0, 60.0)
    assert latency.value == pytest.approx(0.1, abs=0.01)


def test_a_long_prompt_is_expected_to_take_longer() -> None:
    short, long = Latency(), Latency()
    short.observe(0.2, 0, 0.0)
    long.observe(0.2 * size_factor(100_000), 100_000, 0.0)
    assert short.value == pytest.approx(long.value)


def test_retries_are_a_tenth_of_the_calls_with_a_floor_of_three_a_second() -> None:
    budget = RetryBudget()
    assert sum(budget.take(5.0) for _ in range(100)) == 30
    busy = RetryBudget()
    for _ in range(1000):
        busy.called(5.0)
    assert sum(busy.take(5.0) for _ in range(500)) == 100
    assert not busy.take(14.9)
    assert busy.take(15.0), "after ten seconds they come back"


def test_the_minute_slides() -> None:
    minute = Minute()
    minute.add(60.0, requests=60, tokens=600)
    assert minute.used(119.0) == (60, 600)
    assert minute.used(150.0) == (30, 300)
    assert minute.used(180.0) == (0, 0)
    minute.elsewhere = (5.0, 50.0)
    assert minute.used(180.0) == (5, 50)


@pytest.mark.parametrize(
    ("given", "running", "used", "tokens", "said"),
    [
        ({}, 1000, (1000, 10**9), 0, ""),
        ({"max_parallel": 3}, 2, (0, 0), 0, ""),
        ({"max_parallel": 3}, 3, (0, 0), 0, "3 of 3 parallel calls in flight"),
        ({"requests_per_minute": 10}, 0, (9, 0), 0, ""),
        ({"requests_per_minute": 10}, 0, (10, 0), 0, "10 of 10 requests this minute"),
        ({"tokens_per_minute": 100}, 0, (5, 60), 40, ""),
        ({"tokens_per_minute": 100}, 0, (5, 61), 40, "61 of 100 tokens this minute"),
        ({"tokens_per_minute": 100}, 0, (0, 0), 4000, ""),  # larger than a minute's worth: still let through, alone
    ],
)
def test_a_deployment_is_full_by_its_own_limits(
    given: dict[str, int], running: int, used: tuple[int, int], tokens: int, said: str
) -> None:
    made = score("d", running=running, **given)
    made.minute.add(NOW, requests=used[0], tokens=used[1])
    assert made.full(NOW, tokens) == said


def test_a_day_of_outcomes_and_an_hour_of_times_are_kept() -> None:
    tally = Tally()
    for minute in range(0, 26 * 60, 5):
        tally.add(minute * 60.0, "ok", "total:7")
    now = 26 * 3600.0 - 1
    assert tally.since(now, 299)["ok"] == 1
    assert tally.since(now, 3600) == {"ok": 13, "total:7": 13}
    assert tally.since(now, 86400) == {"ok": 289, "total:7": 13}


def test_what_happened_seconds_ago_still_counts_when_a_slot_has_just_begun() -> None:
    tally = Tally()
    tally.add(Tally.WIDTH - 1.0, "ok")
    assert tally.since(Tally.WIDTH + 1.0, 300) == {"ok": 1}
    assert tally.since(2.0 * Tally.WIDTH + 1.0, 300) == {}


def test_percentiles_come_from_the_histogram() -> None:
    made = score("d")
    for milliseconds in range(1, 101):
        made.ended("ok", 300.0, milliseconds / 1000, milliseconds / 100)
    counts = made.tally.since(300.0, 300)
    assert 45 <= (percentile(counts, "first:", 0.5) or 0) <= 65
    assert 95 <= (percentile(counts, "first:", 0.99) or 0) <= 125
    assert percentile({}, "first:", 0.5) is None
