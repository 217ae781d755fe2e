"""What the router promises over minutes, in virtual time. `pytest -s` prints the table; so does bench/router_simulation.py."""

from __future__ import annotations

import pytest

from routing.errors import NoDeployment, UpstreamError
from routing.router import Hints
from tests.routing.simulation import (
    STRATEGIES,
    Process,
    Row,
    Simulation,
    Upstream,
    deployment,
    four,
    markdown,
    public_model,
    table,
)

LOOK_AT_LOAD = ("latency", "least_busy", "cheapest")  # the others send their share whatever it takes


@pytest.fixture(scope="module")
def rows() -> dict[str, Row]:
    made = table(seed=1)
    print(f"\n{markdown(made)}")
    return {row.name: row for row in made}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_clients_see_at_most_two_errors_in_a_thousand(rows: dict[str, Row], strategy: str) -> None:
    assert rows[strategy].figures[0] <= 0.002
    assert rows["random, no router"].figures[0] > 0.2, "without a router it is every fifth call"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_failing_one_gets_at_most_one_call_in_a_hundred(rows: dict[str, Row], strategy: str) -> None:
    assert rows[strategy].figures[1] <= 0.01


@pytest.mark.parametrize("strategy", LOOK_AT_LOAD)
def test_the_slowest_calls_are_three_times_faster_than_by_chance(rows: dict[str, Row], strategy: str) -> None:
    *_, first, total = rows[strategy].figures
    *_, first_by_chance, total_by_chance = rows["random, no router"].figures
    assert first_by_chance >= 3 * first
    assert total_by_chance >= 3 * total


def test_nothing_stays_in_flight(rows: dict[str, Row]) -> None:
    for name in STRATEGIES:
        assert all(score.running == 0 for score in rows[name].simulation.board.scores.values())


def test_the_same_seed_gives_the_same_figures() -> None:
    one, other = four(seed=5, seconds=5), four(seed=5, seconds=5)
    assert one.run().total == other.run().total


def test_retries_do_not_multiply_the_calls_when_everything_answers_503() -> None:
    upstreams = {name: Upstream(failing=1.0, kind="unavailable") for name in "abc"}
    simulation = Simulation(public_model(*map(deployment, upstreams)), upstreams, rate=150, seconds=60)
    result = simulation.run()
    sent = sum(len(upstream.served) for upstream in upstreams.values())
    assert result.error_share == 1.0
    assert sent <= 1.1 * result.calls
    assert sent < 200, "the breakers leave only probes"


def test_the_retry_budget_alone_keeps_it_to_a_tenth() -> None:
    """Failures that open no breaker: only the budget stands between three tries and each call."""
    upstreams = {name: Upstream(failing=1.0, kind="conflict") for name in "abc"}
    simulation = Simulation(public_model(*map(deployment, upstreams)), upstreams, rate=150, seconds=60)
    result = simulation.run()
    sent = sum(len(upstream.served) for upstream in upstreams.values())
    assert result.calls < sent <= 1.1 * result.calls


def test_one_of_three_that_heals_has_its_full_share_within_a_minute() -> None:
    healed = 60.0
    upstreams = {name: Upstream(slots=500) for name in "abc"}
    upstreams["a"] = Upstream(slots=500, failing=1.0, fails=lambda now: now < 1000.0 + healed)
    simulation = Simulation(public_model(*map(deployment, upstreams)), upstreams, rate=60, seconds=180)
    result = simulation.run()
    assert result.error_share <= 0.005
    late = [at for at in upstreams["a"].served if at > 1000.0 + healed + 60]
    everything = sum(at > 1000.0 + healed + 60 for each in upstreams.values() for at in each.served)
    assert len(late) / everything > 0.25


def test_one_that_gets_fast_again_is_found_out() -> None:
    slow_until = 1060.0

    class Slow(Upstream):
        def answer(self, world, begun):  # type: ignore[no-untyped-def]  # as in the base
            self.seconds = 4.0 if world.now < slow_until else 0.2
            return super().answer(world, begun)

    upstreams = {"healing": Slow(slots=500), "steady": Upstream(slots=500)}
    simulation = Simulation(public_model(*map(deployment, upstreams)), upstreams, rate=20, seconds=180)
    simulation.run()

    def share(start: float, end: float) -> float:
        counts = {name: sum(start <= at < end for at in each.served) for name, each in upstreams.items()}
        return counts["healing"] / sum(counts.values())

    assert share(1010.0, slow_until) < 0.05
    assert share(slow_until + 60, 1180.0) > 0.5


def four_callers(strategy: str, upstreams: dict[str, Upstream]) -> float:
    """Mean seconds to the first token with four callers, each with one call at a time."""
    simulation = Simulation(
        public_model(*map(deployment, upstreams), strategy=strategy), upstreams, rate=1000, seconds=0.0035, seed=3
    )

    def caller() -> Process:
        for _ in range(2000):
            yield from simulation._call()

    simulation.run(caller)
    first = simulation.result.first
    assert len(first) >= 8000
    return sum(first) / len(first)


def test_four_callers_stay_with_the_fast_one_of_two() -> None:
    def fast() -> Upstream:
        return Upstream(seconds=0.25, spread=0.3, slots=500)

    def slow() -> Upstream:
        return Upstream(seconds=1.0, spread=0.3, slots=500)

    alone = four_callers("latency", {"fast": fast()})
    routed = four_callers("latency", {"fast": fast(), "slow": slow()})
    by_chance = four_callers("weighted", {"fast": fast(), "slow": slow()})
    assert routed <= 1.2 * alone
    assert by_chance > 2 * alone


def test_weights_are_shares_under_load() -> None:
    upstreams = {name: Upstream(slots=2000) for name in "abc"}
    weights = {"a": 3, "b": 2, "c": 1}
    model = public_model(*(deployment(name, weight=weights[name]) for name in upstreams))
    simulation = Simulation(model, upstreams, rate=600, seconds=30)
    simulation.run()
    assert simulation.share("a") > simulation.share("b") > simulation.share("c")
    assert simulation.share("a") == pytest.approx(0.5, abs=0.12)


def test_everything_in_flight_comes_back_whatever_ends_a_call() -> None:
    """A thousand streams: whole, failed, cut, cancelled before and after the first token, or given up by our own fault."""
    upstreams = {name: Upstream(failing=0.2, kind="cut") for name in "abc"}
    simulation = Simulation(public_model(*map(deployment, upstreams)), upstreams, rate=100, seconds=10)
    world = simulation.world

    def call() -> Process:
        try:
            for attempt in simulation.router.attempts(simulation.model, Hints(stream=True, started=world.now)):
                with attempt as entry:
                    yield 0.01
                    end = world.random.random()
                    if end < 0.2:
                        raise GeneratorExit
                    if end < 0.3:
                        raise ValueError("a fault of ours")
                    yield from upstreams[entry.id].answer(world, attempt.commit)
                    if end < 0.5:
                        raise GeneratorExit
                    attempt.answered(tokens=100)
                    return
        except (GeneratorExit, ValueError, UpstreamError, NoDeployment):
            return

    result = simulation.run(call)
    assert result.calls > 900
    assert {score.running for score in simulation.board.scores.values()} == {0}
    assert not any(score.breaker.probing for score in simulation.board.scores.values())
