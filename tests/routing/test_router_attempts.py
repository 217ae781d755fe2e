"""One call's way through the deployments: who is tried, who is passed over, when it ends, and what is written down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from routing.backends.base import Endpoint
from routing.catalog import Catalog, DeploymentEntry, ModelEntry
from routing.errors import RETRYABLE, Kind, NoDeployment, UpstreamError
from routing.router import Attempt, Hints, Note, Router
from routing.scores_memory import Board
from tests.routing.simulation import deployment, public_model

Do = Callable[[Attempt, DeploymentEntry], object]


class Time:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def router(time: Time) -> Router:
    return Router(Board(time, epoch=0.0), random=Random(1))


def error(kind: Kind, **given: Any) -> UpstreamError:
    return UpstreamError(kind, f"it was {kind}", **given)


def fail(kind: Kind, **given: Any) -> Do:
    def do(attempt: Attempt, entry: DeploymentEntry) -> object:
        raise error(kind, **given)

    return do


def answer(attempt: Attempt, entry: DeploymentEntry) -> object:
    return entry.id


def call(router: Router, model: ModelEntry, *does: Do, hints: Hints | None = None) -> tuple[object, Hints]:
    """Make a call; each try does the next thing of `does`, the last one for ever."""
    hints = hints or Hints(started=router.clock())
    for number, attempt in enumerate(router.attempts(model, hints)):
        with attempt as entry:
            return does[min(number, len(does) - 1)](attempt, entry), hints
    raise AssertionError("the last attempt returns or raises")


def failed(router: Router, model: ModelEntry, *does: Do, hints: Hints | None = None) -> tuple[UpstreamError, Hints]:
    hints = hints or Hints(started=router.clock())
    with pytest.raises(UpstreamError) as caught:
        call(router, model, *does, hints=hints)
    return caught.value, hints


def outcomes(hints: Hints) -> list[tuple[str, str]]:
    return [(note.deployment, note.outcome) for note in hints.notes]


def model(count: int = 3, strategy: str = "failover", **given: Any) -> ModelEntry:
    """Deployments a, b, c, ... in order."""
    return public_model(*(deployment("abcdefgh"[at], **given) for at in range(count)), strategy=strategy)


# Retries


def test_the_first_try_that_works_is_the_answer(router: Router) -> None:
    found, hints = call(router, model(), answer)
    assert found == "a"
    assert outcomes(hints) == [("a", "ok")]


@pytest.mark.parametrize("kind", sorted(RETRYABLE))
def test_another_deployment_is_tried_when_the_first_fails(router: Router, kind: Kind) -> None:
    found, hints = call(router, model(), fail(kind), answer)
    assert found == "b"
    assert outcomes(hints) == [("a", kind), ("b", "ok")]


@pytest.mark.parametrize("kind", ["invalid", "too_long"])
def test_what_the_caller_did_wrong_is_not_tried_again(router: Router, kind: Kind) -> None:
    caught, hints = failed(router, model(), fail(kind), answer)
    assert caught.kind == kind
    assert outcomes(hints) == [("a", kind)]


def test_at_most_three_tries_and_the_last_error_is_raised(router: Router) -> None:
    caught, hints = failed(router, model(5), fail("server"), fail("unavailable"), fail("connect"))
    assert caught.kind == "connect"
    assert outcomes(hints) == [("a", "server"), ("b", "unavailable"), ("c", "connect")]


def test_nothing_is_tried_after_the_client_has_heard_something(router: Router) -> None:
    def cut(attempt: Attempt, entry: DeploymentEntry) -> object:
        attempt.commit()
        raise error("cut")

    _, hints = failed(router, model(), cut, answer)
    assert outcomes(hints) == [("a", "cut")]


def test_the_same_deployment_is_asked_again_only_when_it_is_the_only_one(router: Router) -> None:
    _, hints = call(router, model(1), fail("unavailable"), answer)
    assert outcomes(hints) == [("a", "unavailable"), ("a", "ok")]
    _, hints = failed(router, model(2), fail("unavailable"))
    assert [name for name, _ in outcomes(hints)] == ["a", "b", "b"]


@pytest.mark.parametrize("kind", ["credential", "billing", "not_found", "rate_limited", "timeout"])
def test_the_only_deployment_is_not_asked_again_when_waiting_cannot_help(router: Router, kind: Kind) -> None:
    _, hints = failed(router, model(1), fail(kind), answer)
    assert outcomes(hints) == [("a", kind)]


def test_there_is_a_pause_before_the_same_deployment_and_none_before_another(router: Router) -> None:
    delays = []
    with pytest.raises(UpstreamError):
        for attempt in router.attempts(model(2), Hints(started=1000.0)):
            delays.append(attempt.delay)
            with attempt:
                raise error("server")
    assert delays[:2] == [0, 0]
    assert 0 < delays[2] <= 0.4


def test_a_conflict_is_tried_once_more(router: Router) -> None:
    _, hints = failed(router, model(), fail("conflict"))
    assert len(hints.notes) == 2


@pytest.mark.parametrize(("left", "tries"), [(0.99, 1), (1.01, 3), (None, 3)])
def test_nothing_is_tried_again_with_less_than_a_second_left(
    router: Router, time: Time, left: float | None, tries: int
) -> None:
    hints = Hints(started=time.now, deadline=None if left is None else time.now + left)
    failed(router, model(), fail("server"), hints=hints)
    assert len(hints.notes) == tries


def test_retries_end_with_the_budget_and_say_so(router: Router) -> None:
    for _ in range(30):
        failed(router, model(), fail("conflict"))
    _, hints = failed(router, model(), fail("conflict"))
    assert [(note.outcome, note.reason) for note in hints.notes[1:]] == [
        ("skipped", "no retries left in this model's budget")
    ]


def test_an_empty_answer_is_tried_elsewhere_when_the_model_says_so(router: Router) -> None:
    def empty(attempt: Attempt, entry: DeploymentEntry) -> object:
        if entry.id == "a":
            attempt.empty()
        return entry.id

    found, hints = call(router, replace(model(), id="careful", retry_empty=True), empty)
    assert found == "b"
    assert outcomes(hints) == [("a", "empty"), ("b", "ok")]
    assert router.board.scores["a"].breaker.consecutive == 0, "an empty answer is not bad health"
    assert call(router, model(), empty)[0] == "a"


def test_when_nobody_else_is_there_an_empty_answer_is_the_answer(router: Router) -> None:
    def empty(attempt: Attempt, entry: DeploymentEntry) -> object:
        attempt.empty()
        return entry.id

    found, hints = call(router, replace(model(2), id="careful", retry_empty=True), empty)
    assert found == hints.notes[-1].deployment
    assert [note.outcome for note in hints.notes] == ["empty", "empty", "ok"]


def test_a_credential_that_was_refused_is_not_tried_under_another_name(router: Router) -> None:
    def scoped(name: str, scope: str) -> DeploymentEntry:
        return deployment(name, endpoint=Endpoint("simulated", "http://127.0.0.1", "m", scope=scope))

    shared = public_model(scoped("a", "one"), scoped("b", "one"), scoped("c", "two"), strategy="failover")
    _, hints = call(router, shared, fail("credential"), answer)
    assert outcomes(hints) == [("a", "credential"), ("b", "skipped"), ("c", "ok")]
    assert hints.notes[1].reason == "its credential was just refused"


# One budget for connecting and for the first byte


def slowly(time: Time, kind: Kind, seconds: float) -> Do:
    def do(attempt: Attempt, entry: DeploymentEntry) -> object:
        time.now += seconds
        raise error(kind)

    return do


@pytest.mark.parametrize(("kind", "seconds", "tries"), [("connect", 3.0, 1), ("connect", 1.5, 2), ("connect", 0.01, 3), ("timeout", 60.0, 1)])  # fmt: skip
def test_when_everything_hangs_all_tries_share_one_budget(
    router: Router, time: Time, kind: Kind, seconds: float, tries: int
) -> None:
    _, hints = failed(router, model(), slowly(time, kind, seconds))
    assert len([note for note in hints.notes if note.outcome == kind]) == tries


def test_a_try_may_wait_for_what_the_tries_before_have_left(router: Router, time: Time) -> None:
    waits: list[tuple[float, float, float]] = []

    def hang(kind: Kind, seconds: float) -> Do:
        def do(attempt: Attempt, entry: DeploymentEntry) -> object:
            waits.append((attempt.timeouts.connect, attempt.timeouts.first_byte, attempt.deadline - time.now))
            slowly(time, kind, seconds)(attempt, entry)
            raise AssertionError

        return do

    failed(router, model(), hang("connect", 1.5), hang("timeout", 20.0), hang("timeout", 40.0))
    assert waits == [(3.0, 60.0, 600.0), (1.5, 60.0, 598.5), (1.5, 40.0, 578.5)]


def test_one_that_answered_meanwhile_has_the_whole_time(router: Router, time: Time) -> None:
    def hang(attempt: Attempt, entry: DeploymentEntry) -> object:
        time.now += 60
        call(router, public_model(*model().deployments[1:], id="m", strategy="failover"), answer)
        raise error("timeout")

    def wait(attempt: Attempt, entry: DeploymentEntry) -> object:
        return attempt.timeouts.first_byte

    assert call(router, model(), hang, wait)[0] == 60.0


def test_when_one_hangs_a_deployment_that_answered_meanwhile_is_tried(router: Router, time: Time) -> None:
    def hang(attempt: Attempt, entry: DeploymentEntry) -> object:
        time.now += 50
        call(router, public_model(*model().deployments[1:], id="m", strategy="failover"), answer)
        time.now += 10
        raise error("timeout")

    assert call(router, model(), hang, answer)[0] == "b"


def test_a_client_with_little_patience_says_nothing_about_the_deployment(router: Router, time: Time) -> None:
    for _ in range(20):
        failed(router, model(1), slowly(time, "timeout", 2.0), hints=Hints(started=time.now, deadline=time.now + 2.0))
    assert router.board.scores["a"].breaker.state(time.now) == "closed"
    for _ in range(5):
        failed(router, model(1), slowly(time, "timeout", 60.0), hints=Hints(started=time.now, deadline=time.now + 60.0))
    assert router.board.scores["a"].breaker.state(time.now) == "open"


# Who may be chosen


def test_a_lower_priority_is_tried_only_when_the_higher_is_out(router: Router) -> None:
    tiers = public_model(deployment("spare", priority=1), deployment("main"), strategy="latency")
    assert {call(router, tiers, answer)[0] for _ in range(50)} == {"main"}
    assert call(router, tiers, fail("server"), answer)[0] == "spare"


def test_weight_zero_is_the_very_last(router: Router) -> None:
    last = public_model(deployment("last", weight=0), deployment("first", priority=5), strategy="latency")
    assert {call(router, last, answer)[0] for _ in range(20)} == {"first"}
    assert call(router, last, fail("server"), answer)[0] == "last"


def test_a_cooling_one_is_passed_over_with_the_reason_and_comes_back(router: Router, time: Time) -> None:
    call(router, model(), fail("rate_limited", retry_after=7.0), answer)
    for after in (0.0, 6.9):
        time.now = 1000.0 + after
        found, hints = call(router, model(), answer)
        assert found == "b"
    assert hints.notes[0].reason == "cooling down for 0.1 s more (rate limited)"
    time.now = 1007.0
    assert call(router, model(), answer)[0] == "a"


def test_a_draining_one_takes_nothing_new(router: Router) -> None:
    drained = public_model(deployment("a", draining=True), deployment("b"), strategy="failover")
    found, hints = call(router, drained, answer)
    assert (found, hints.notes[0].reason) == ("b", "draining")


def test_a_full_one_is_passed_over_until_a_call_ends(router: Router) -> None:
    narrow = public_model(deployment("a", max_parallel=1), deployment("b"), strategy="failover")

    def during(attempt: Attempt, entry: DeploymentEntry) -> object:
        return call(router, narrow, answer)[0]

    assert call(router, narrow, during)[0] == "b"
    assert call(router, narrow, answer)[0] == "a"


def test_tokens_used_count_against_the_deployments_minute(router: Router, time: Time) -> None:
    def used(attempt: Attempt, entry: DeploymentEntry) -> object:
        attempt.answered(tokens=900)
        return entry.id

    limited = public_model(deployment("a", tokens_per_minute=1000), deployment("b"), strategy="failover")
    hints = Hints(started=time.now, prompt_tokens=200)
    assert call(router, limited, used, hints=hints)[0] == "a"
    assert call(router, limited, answer, hints=Hints(started=time.now, prompt_tokens=200))[0] == "b"
    assert call(router, limited, answer, hints=Hints(started=time.now, prompt_tokens=50))[0] == "a"


def test_a_backend_without_the_action_is_passed_over(router: Router) -> None:
    with pytest.raises(NoDeployment) as caught:
        call(router, model(), answer, hints=Hints(action="embed"))
    assert caught.value.reason == "none"


def test_one_probe_at_a_time_reaches_a_half_open_one(router: Router, time: Time) -> None:
    for _ in range(5):
        call(router, model(2), fail("server"), answer)
    assert call(router, model(2), answer)[0] == "b"
    time.now += 6

    def during(attempt: Attempt, entry: DeploymentEntry) -> object:
        return entry.id, call(router, model(2), answer)[0]

    found, hints = call(router, model(2), during)
    assert found == ("a", "b")
    assert hints.notes[0].reason == "probe"
    assert call(router, model(2), answer)[0] == "a"
    assert router.board.scores["a"].breaker.state(time.now) == "closed"


def test_a_stream_proves_a_half_open_one_as_soon_as_it_begins(router: Router, time: Time) -> None:
    for _ in range(5):
        call(router, model(2), fail("server"), answer)
    time.now += 6

    def begun(attempt: Attempt, entry: DeploymentEntry) -> object:
        attempt.commit()
        return call(router, model(2), answer)[0]

    assert call(router, model(2), begun)[0] == "a"


def test_of_many_streams_that_began_together_the_few_that_break_first_open_nothing(router: Router) -> None:
    def together(count: int, broken: int) -> str:
        flowing = []
        for _ in range(count):
            attempt = next(router.attempts(model(1), Hints(stream=True)))
            attempt.__enter__()
            attempt.commit()
            flowing.append(attempt)
        for attempt in flowing[:broken]:
            attempt.__exit__(UpstreamError, error("cut"), None)
        state = router.board.scores["a"].breaker.state(router.clock())
        for attempt in flowing[broken:]:
            attempt.__exit__(None, None, None)
        assert router.board.scores["a"].flowing == 0
        return state

    assert together(12, broken=6) == "closed"
    assert together(12, broken=12) == "open"


def test_a_changed_deployment_gets_a_new_chance_but_not_under_a_rate_limit(router: Router) -> None:
    for kind in ("credential", "rate_limited"):
        failed(router, model(1, version="1"), fail(kind, retry_after=60.0))  # type: ignore[arg-type]  # both are kinds
        with pytest.raises(NoDeployment):
            call(router, model(1, version="1"), answer)
        if kind == "credential":
            assert call(router, model(1, version="2"), answer)[0] == "a"
    with pytest.raises(NoDeployment):
        call(router, model(1, version="3"), answer)


def test_a_call_from_before_a_change_does_not_undo_what_is_known(router: Router) -> None:
    old, new = model(1, version="1"), model(1, version="2")
    call(router, old, answer)
    failed(router, new, fail("credential"))
    with pytest.raises(NoDeployment):
        call(router, old, answer)
    with pytest.raises(NoDeployment):
        call(router, new, answer)


def test_a_refused_credential_is_told_once(router: Router) -> None:
    told: list[tuple[str, str]] = []
    router.board.alert = lambda entry, sentence: told.append((entry.id, sentence))
    attempts = [next(router.attempts(model(1), Hints())) for _ in range(5)]
    for attempt in attempts:
        attempt.__enter__()
    for attempt in attempts:
        attempt.__exit__(UpstreamError, error("credential"), None)
    assert told == [("a", "The provider refuses the credential of this connection.")]


# Nobody left


def test_a_model_without_deployments_has_none(router: Router) -> None:
    with pytest.raises(NoDeployment) as caught:
        call(router, public_model(), answer)
    assert (caught.value.reason, caught.value.retry_after) == ("none", None)


def test_when_all_are_rate_limited_the_earliest_return_is_named(router: Router) -> None:
    failed(router, model(2), fail("rate_limited", retry_after=20.0), fail("rate_limited", retry_after=7.0))
    with pytest.raises(NoDeployment) as caught:
        call(router, model(2), answer)
    assert (caught.value.reason, caught.value.retry_after) == ("rate_limited", 7.0)


def test_when_one_of_them_is_broken_it_is_not_the_rate_limit(router: Router) -> None:
    failed(router, model(2), fail("rate_limited", retry_after=20.0), fail("credential"))
    with pytest.raises(NoDeployment) as caught:
        call(router, model(2), answer)
    assert caught.value.reason == "cooling"
    assert caught.value.retry_after == pytest.approx(20.0)


def test_its_own_limit_counts_as_a_rate_limit(router: Router) -> None:
    small = model(1, requests_per_minute=1)
    call(router, small, answer)
    with pytest.raises(NoDeployment) as caught:
        call(router, small, answer)
    assert caught.value.reason == "rate_limited"


def test_while_all_are_open_one_call_a_second_finds_out_whether_somebody_is_back(router: Router, time: Time) -> None:
    for _ in range(5):
        failed(router, model(2), fail("server"))
    time.now += 1.0
    with pytest.raises(UpstreamError):
        call(router, model(2), fail("server"))  # the try of this second
    with pytest.raises(NoDeployment):
        call(router, model(2), answer)
    time.now += 1.0
    found, hints = call(router, model(2), answer)
    assert hints.notes[-1].reason == "all are out: a try"
    assert call(router, model(2), answer)[0] == found, "it is back, seconds before its time"


# Fallback models


@pytest.fixture
def catalog() -> Catalog:
    def of(name: str, *fallbacks: str) -> ModelEntry:
        return public_model(deployment(f"{name}-1"), id=name, name=name, fallbacks=fallbacks, strategy="failover")

    return Catalog((of("large", "gone", "secret", "small"), of("secret"), of("small")))


def fallback_hints(catalog: Catalog, allowed: str = "large small") -> Hints:
    return Hints(started=1000.0, organization_id="acme", catalog=catalog, allows=lambda name: name in allowed.split())


def test_a_fallback_model_answers_when_every_deployment_is_out(router: Router, catalog: Catalog) -> None:
    large = catalog.models[0]
    found, hints = call(router, large, fail("server"), answer, hints=fallback_hints(catalog))
    assert found == "small-1"
    assert hints.notes[-1].reason == "fallback model small: first in order"


def test_a_fallback_model_that_the_key_may_not_use_is_left_out(router: Router, catalog: Catalog) -> None:
    failed(router, catalog.models[0], fail("credential"), answer, hints=fallback_hints(catalog, allowed="large"))


def test_a_healthy_model_never_falls_back(router: Router, catalog: Catalog) -> None:
    assert call(router, catalog.models[0], answer, hints=fallback_hints(catalog))[0] == "large-1"


# Preferences


def test_a_conversation_stays_where_its_prompt_is_cached(router: Router) -> None:
    three = model(3, strategy="weighted")
    first = call(router, three, answer, hints=Hints(affinity_key="talk"))[0]
    assert {call(router, three, answer, hints=Hints(affinity_key="talk"))[0] for _ in range(50)} == {first}
    assert len({call(router, three, answer, hints=Hints())[0] for _ in range(50)}) == 3


def test_a_conversation_moves_when_its_deployment_is_much_busier_or_out(router: Router, time: Time) -> None:
    two = model(2)
    call(router, two, answer, hints=Hints(affinity_key="talk"))
    router.board.scores["b"].running = 10
    router.board.scores["a"].running = 10
    assert call(router, two, answer, hints=Hints(affinity_key="talk"))[0] == "a"
    router.board.scores["a"].running = 20
    two = replace(two, strategy="least_busy")
    assert call(router, two, answer, hints=Hints(affinity_key="talk"))[0] == "b"


def test_a_conversation_is_forgotten_after_five_minutes(router: Router, time: Time) -> None:
    call(router, model(), answer, hints=Hints(affinity_key="talk"))
    assert router.conversation("talk", time.now + 299) == "a"
    assert router.conversation("talk", time.now + 301) == ""


def test_opaque_tokens_prefer_the_scope_that_made_them(router: Router) -> None:
    found, hints = call(router, model(), answer, hints=Hints(scope="scope-c"))
    assert (found, hints.notes[0].reason) == ("c", "made this call's signatures")
    assert call(router, model(), fail("server"), answer, hints=Hints(scope="scope-c"))[0] == "a", (
        "but it is not required"
    )
    assert call(router, model(), answer, hints=Hints(scope="unknown"))[0] == "a"


# What is written down


def test_a_note_tells_times_and_what_was_said(router: Router, time: Time) -> None:
    def stream(attempt: Attempt, entry: DeploymentEntry) -> object:
        time.now += 0.25
        attempt.first_byte()
        time.now += 0.25
        attempt.first_byte()
        attempt.commit()
        time.now += 1.0
        attempt.answered(tokens=10)
        time.now += 5.0  # the client reads slowly
        return None

    def broken(attempt: Attempt, entry: DeploymentEntry) -> object:
        time.now += 0.5
        raise error("server", provider_status=500)

    _, hints = call(router, model(), broken, stream)
    assert hints.notes == [
        Note("a", "a", "first in order", "server", 0, 500, None, 500, "it was server"),
        Note("b", "b", "first in order", "ok", 500, 1500, 250, None, ""),
    ]


def test_the_latency_of_failures_does_not_count(router: Router) -> None:
    failed(router, model(1), fail("server"))
    assert router.board.scores["a"].streams.samples == router.board.scores["a"].answers.samples == 0


async def test_a_cancelled_call_is_noted_and_gives_its_place_back(router: Router) -> None:
    hints = Hints()

    async def cancelled() -> None:
        for attempt in router.attempts(model(), hints):
            with attempt:
                await asyncio.get_running_loop().create_future()

    task = asyncio.create_task(cancelled())
    await asyncio.sleep(0)
    assert router.board.scores["a"].running == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert outcomes(hints) == [("a", "cancelled")]
    assert router.board.scores["a"].running == 0
    assert router.board.scores["a"].breaker.recent.totals(1000.0) == (0, 0)


def test_a_client_that_leaves_after_the_answer_was_whole_does_not_spoil_it(router: Router) -> None:
    def leave(attempt: Attempt, entry: DeploymentEntry) -> object:
        attempt.answered(tokens=5)
        raise asyncio.CancelledError

    hints = Hints()
    with pytest.raises(asyncio.CancelledError):
        call(router, model(), leave, hints=hints)
    assert outcomes(hints) == [("a", "ok")]


def test_a_fault_of_ours_is_not_tried_on_five_deployments(router: Router) -> None:
    def fault(attempt: Attempt, entry: DeploymentEntry) -> object:
        raise KeyError("contents")

    hints = Hints()
    with pytest.raises(KeyError):
        call(router, model(), fault, hints=hints)
    assert [(note.outcome, note.error) for note in hints.notes] == [("error", "KeyError")]
    assert router.board.scores["a"].breaker.consecutive == 0


def test_a_generator_that_is_closed_gives_its_place_back(router: Router) -> None:
    def stream() -> Iterator[str]:
        for attempt in router.attempts(model(), Hints()):
            with attempt as entry:
                yield entry.id

    chunks = stream()
    assert next(chunks) == "a"
    chunks.close()
    assert router.board.scores["a"].running == 0


def test_the_last_failure_and_the_counts_of_a_deployment_are_kept(router: Router, time: Time) -> None:
    call(router, model(2), fail("server", provider_status=500), answer)
    score = router.board.scores["a"]
    assert score.last_failure is not None
    assert (score.last_failure.at, score.last_failure.kind, score.last_failure.text) == (
        1000.0,
        "server",
        "it was server",
    )
    assert score.tally.since(time.now, 300) == {"server": 1}


def test_what_left_the_catalog_is_forgotten_when_its_last_call_ends(router: Router) -> None:
    def during(attempt: Attempt, entry: DeploymentEntry) -> object:
        router.board.keep(Catalog())
        return list(router.board.scores)

    assert call(router, model(2), during)[0] == ["a"]
    router.board.keep(Catalog())
    assert not router.board.scores
