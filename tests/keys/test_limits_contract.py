"""One contract for both keepers of limits: this process's memory, and a real Valkey."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keys.context import LimitRule
from keys.limits import rules_for, seeding
from keys.limits.base import Hold, LimitReached, Used
from keys.limits.memory import MemoryLimiter
from keys.limits.redis import RedisLimiter
from keys.limits.windows import NEVER, SOON
from lib.store import Store
from tests.keys.limiting import NANO, NOON, Limiter, admit, ask, key_with, rule, usage

DAY = 86_400.0


@asynccontextmanager
async def keeper(kind: str, url: str) -> AsyncIterator[Limiter]:
    if kind == "memory":
        yield MemoryLimiter()
        return
    store = Store()
    await store.open(url)
    limiter = RedisLimiter(store)
    await limiter.open()
    yield limiter
    await limiter.close()
    await store.close()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested here is not how fast this machine is."""
    monkeypatch.setattr("lib.store.TIMEOUT", 10.0)


@pytest.fixture(params=["memory", "redis"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue("redis_url") if kind == "redis" else ""


@pytest.fixture
async def limiter(kind: str, url: str) -> AsyncIterator[Limiter]:
    async with keeper(kind, url) as limiter:
        yield limiter


# ---- taking


async def test_a_budget_of_one_dollar_is_never_overspent_by_400_calls_at_once(limiter: Limiter) -> None:
    key = key_with(rule("spend", "month", 1 * NANO))
    luck = random.Random(7)
    paid = 0

    async def call() -> bool:
        nonlocal paid
        spend = luck.randint(1, 30) * 1_000_003
        try:
            hold = await admit(limiter, key, spend=spend)
        except LimitReached:
            return False
        await asyncio.sleep(0)
        used = luck.randint(0, spend)
        paid += used
        limiter.settle(hold, Used(10, used))
        return True

    passed = await asyncio.gather(*(call() for _ in range(400)))
    assert 0 < sum(passed) < 400
    assert 0 < paid <= 1 * NANO
    async with asyncio.timeout(10):  # what settles goes out beside the question, on a connection of its own
        while (await usage(limiter, key))[0][1]:  # noqa: ASYNC110 - Redis has no event to wait for
            await asyncio.sleep(0.01)
    assert await usage(limiter, key) == [(paid, 0)]


async def test_what_is_held_counts_until_it_is_settled(limiter: Limiter) -> None:
    key = key_with(rule("spend", "month", 100))
    hold = await admit(limiter, key, spend=80)
    assert await usage(limiter, key) == [(0, 80)]
    with pytest.raises(LimitReached) as refused:
        await admit(limiter, key, spend=30)
    assert (refused.value.used, refused.value.retry_after) == (80, SOON), "the running call may use less"
    limiter.settle(hold, Used(0, 20))
    assert await usage(limiter, key) == [(20, 0)]
    await admit(limiter, key, spend=80)


async def test_one_full_limit_takes_nothing_from_the_others(limiter: Limiter) -> None:
    full, free = rule("requests", "day", 1), rule("tokens", "day", 1_000)
    key = key_with(full, free)
    await admit(limiter, key, tokens=100)
    with pytest.raises(LimitReached) as refused:
        await admit(limiter, key, tokens=100)
    assert refused.value.rule == full
    assert await usage(limiter, key) == [(1, 0), (0, 100)]


async def test_of_several_full_limits_the_one_that_lasts_longest_is_named(limiter: Limiter) -> None:
    rules = [rule("requests", "minute", 1), rule("requests", "month", 1), rule("requests", "hour", 1)]
    key = key_with(*rules)
    await admit(limiter, key)
    with pytest.raises(LimitReached) as refused:
        await admit(limiter, key)
    assert refused.value.rule.period == "month"


async def test_the_same_call_never_holds_twice(limiter: Limiter) -> None:
    key = key_with(rule("requests", "day", 5), rule("spend", "day", 100))
    asking = ask(spend=40)
    first = await limiter.admit(key, key.limits, asking, NOON)
    again = await limiter.admit(key, key.limits, asking, NOON + 1)
    assert await usage(limiter, key) == [(1, 0), (0, 40)]
    limiter.settle(first, Used(0, 10))
    limiter.settle(again, Used(0, 10))
    assert await usage(limiter, key) == [(1, 0), (10, 0)]


async def test_settling_twice_and_releasing_after_it_change_nothing(limiter: Limiter) -> None:
    key = key_with(rule("tokens", "day", 100), rule("concurrent", "minute", 2))
    hold = await admit(limiter, key, tokens=50)
    limiter.settle(hold, Used(30))
    limiter.settle(hold, Used(7))
    limiter.release(hold)
    assert await usage(limiter, key) == [(30, 0), (0, 0)]


async def test_a_released_call_leaves_no_trace_and_its_request_does_not_count(limiter: Limiter) -> None:
    key = key_with(rule("requests", "minute", 1), rule("spend", "lifetime", 10), rule("concurrent", "minute", 1))
    limiter.release(await admit(limiter, key, spend=10))
    assert await usage(limiter, key) == [(0, 0), (0, 0), (0, 0)]
    await admit(limiter, key, spend=10)


async def test_a_call_may_use_more_than_it_held(limiter: Limiter) -> None:
    key = key_with(rule("tokens", "day", 100))
    limiter.settle(await admit(limiter, key, tokens=50), Used(130))
    assert await usage(limiter, key) == [(130, 0)]
    with pytest.raises(LimitReached):
        await admit(limiter, key, tokens=1)


async def test_concurrent_calls_are_counted_while_they_run(limiter: Limiter) -> None:
    key = key_with(rule("concurrent", "minute", 2))
    first = await admit(limiter, key)
    await admit(limiter, key)
    with pytest.raises(LimitReached) as refused:
        await admit(limiter, key)
    assert refused.value.retry_after == SOON
    limiter.settle(first, Used())
    await admit(limiter, key)


async def test_a_soft_limit_counts_and_never_refuses(limiter: Limiter) -> None:
    key = key_with(rule("requests", "day", 1, hard=False), rule("requests", "day", 3))
    for _ in range(3):
        await admit(limiter, key)
    with pytest.raises(LimitReached) as refused:
        await admit(limiter, key)
    assert refused.value.rule.hard
    assert await usage(limiter, key) == [(3, 0), (3, 0)]


async def test_a_limit_of_nothing_lets_nobody_in(limiter: Limiter) -> None:
    with pytest.raises(LimitReached) as refused:
        await admit(limiter, key_with(rule("requests", "minute", 0)))
    assert refused.value.retry_after == NEVER


async def test_calls_of_other_models_are_not_counted_by_a_pattern(limiter: Limiter) -> None:
    key = key_with(rule("requests", "day", 1, pattern="gemini-*"), rule("requests", "day", 5))

    async def call(model: str) -> None:
        await limiter.admit(key, rules_for(key, model), replace(ask(), model=model), NOON)

    await call("gpt-4o")
    await call("gemini-2.5-pro")
    await call("gpt-4o")
    with pytest.raises(LimitReached):
        await call("gemini-2.5-flash")
    assert await usage(limiter, key) == [(1, 0), (3, 0)]


async def test_team_and_organization_limits_are_shared_by_their_keys(limiter: Limiter) -> None:
    shared = rule("requests", "day", 3, subject="organization", subject_id="org")
    one = key_with(rule("requests", "day", 2), shared, organization="shared-org-" + shared.id)
    other = key_with(rule("requests", "day", 2), shared, organization="shared-org-" + shared.id)
    await admit(limiter, one)
    await admit(limiter, one)
    await admit(limiter, other)
    with pytest.raises(LimitReached) as refused:
        await admit(limiter, other)
    assert refused.value.rule == shared


# ---- what is told


async def test_the_tightest_hard_limit_is_told_with_what_is_left_and_when_it_renews(limiter: Limiter) -> None:
    wide, tight = rule("requests", "day", 100), rule("tokens", "day", 100)
    key = key_with(wide, tight, rule("requests", "day", 1, hard=False))
    standing = (await admit(limiter, key, tokens=90)).standing
    assert standing is not None
    assert (standing.rule, standing.remaining, standing.reset) == (tight, 10, DAY / 2)


async def test_a_full_minute_says_truly_when_there_is_room_again(limiter: Limiter) -> None:
    key = key_with(rule("requests", "minute", 2))
    await admit(limiter, key, NOON)
    await admit(limiter, key, NOON + 30)
    with pytest.raises(LimitReached) as refused:
        await admit(limiter, key, NOON + 45)
    wait = refused.value.retry_after
    assert 15 <= wait <= 16
    with pytest.raises(LimitReached):
        await admit(limiter, key, NOON + 45 + wait - 0.01)
    await admit(limiter, key, NOON + 45 + wait)


@pytest.mark.parametrize(
    ("period", "wait"),
    [("day", DAY / 2), ("week", 4.5 * DAY), ("month", 5.5 * DAY), ("lifetime", NEVER)],
)
async def test_a_full_period_says_when_it_ends(limiter: Limiter, period: str, wait: float) -> None:
    key = key_with(rule("spend", period, 10))
    limiter.settle(await admit(limiter, key, spend=10), Used(0, 10))
    with pytest.raises(LimitReached) as refused:
        await admit(limiter, key, spend=1)
    assert refused.value.retry_after == wait


async def test_a_call_that_can_never_fit_is_told_so(limiter: Limiter) -> None:
    with pytest.raises(LimitReached) as refused:
        await admit(limiter, key_with(rule("tokens", "minute", 100)), tokens=101)
    assert refused.value.retry_after == NEVER


# ---- time


async def test_a_day_begins_at_local_midnight_also_when_the_clocks_change(limiter: Limiter) -> None:
    """Berlin, 25 October 2026: 25 hours. Midnight before it is 22:00 UTC, the one after it 23:00 UTC."""
    key = key_with(rule("requests", "day", 1), time_zone="Europe/Berlin")
    first = 1_792_879_200.0  # 2026-10-24 22:00 UTC
    await admit(limiter, key, first - 1)
    await admit(limiter, key, first)
    with pytest.raises(LimitReached) as refused:
        await admit(limiter, key, first + 24 * 3600)
    assert refused.value.retry_after == 3600
    await admit(limiter, key, first + 25 * 3600)


async def test_a_call_is_charged_in_the_period_it_was_admitted_in(limiter: Limiter) -> None:
    key = key_with(rule("spend", "day", 100))
    midnight = NOON + DAY / 2
    late = await admit(limiter, key, midnight - 1, spend=90)
    assert await usage(limiter, key, midnight) == [(0, 0)]
    limiter.settle(late, Used(0, 50))
    assert await usage(limiter, key, midnight) == [(0, 0)]
    assert await usage(limiter, key, midnight - 1) == [(50, 0)]


async def test_a_clock_that_is_set_back_finds_what_was_used_before(limiter: Limiter) -> None:
    key = key_with(rule("requests", "day", 1))
    await admit(limiter, key, NOON)
    await admit(limiter, key, NOON + DAY)
    with pytest.raises(LimitReached):
        await admit(limiter, key, NOON)


async def test_a_call_that_outlives_its_window_takes_nothing_back_from_the_next(limiter: Limiter) -> None:
    key = key_with(rule("tokens", "minute", 100))
    long = await admit(limiter, key, NOON, tokens=100)
    await admit(limiter, key, NOON + 61, tokens=60)
    limiter.settle(long, Used(10))
    assert await usage(limiter, key, NOON + 61) == [(0, 60)]


async def test_more_than_the_amount_never_passes_in_any_minute(limiter: Limiter) -> None:
    key = key_with(rule("requests", "minute", 20))
    luck = random.Random(11)
    passed: list[float] = []
    now = NOON
    for _ in range(600):
        now += luck.choice((0.01, 0.2, 0.7, 1.3))
        try:
            await admit(limiter, key, now)
        except LimitReached:
            continue
        passed.append(now)
    assert len(passed) > 40
    for at in passed:
        assert sum(at - 60 < other <= at for other in passed) <= 20


# ---- where counters begin


@pytest.fixture
def history() -> AsyncIterator[dict[str, int]]:
    """By limit: what the ledger knows."""
    known: dict[str, int] = {}

    async def rebuild(organization_id: str, asked: Any) -> list[int]:
        return [known.get(each.id, 0) for each, _ in asked]

    seeding.use(rebuild)
    yield known
    seeding.use(None)


async def test_a_counter_begins_with_what_the_ledger_knows(limiter: Limiter, history: dict[str, int]) -> None:
    key = key_with(rule("spend", "month", 100), rule("requests", "minute", 10))
    history |= {key.limits[0].id: 60, key.limits[1].id: 4}
    await asyncio.gather(*(admit(limiter, key, spend=10) for _ in range(4)))
    assert await usage(limiter, key) == [(60, 40), (8, 0)]
    with pytest.raises(LimitReached):
        await admit(limiter, key, spend=10)


async def test_a_new_period_begins_at_nothing(limiter: Limiter, history: dict[str, int]) -> None:
    key = key_with(rule("requests", "day", 5))
    await admit(limiter, key)
    history[key.limits[0].id] = 5
    await admit(limiter, key, NOON + DAY)
    assert await usage(limiter, key, NOON + DAY) == [(1, 0)]


async def test_a_changed_amount_keeps_its_counter_and_a_changed_pattern_begins_a_new_one(
    limiter: Limiter, history: dict[str, int]
) -> None:
    before = rule("requests", "day", 1)
    key = key_with(before)
    await admit(limiter, key)
    raised = replace(key, limits=(replace(before, amount=2),), key_name="renamed", secret_id="rotated")
    await admit(limiter, raised)
    with pytest.raises(LimitReached):
        await admit(limiter, raised)
    history[before.id] = 0
    await admit(limiter, replace(key, limits=(replace(before, pattern="gemini-*"),)))


async def test_a_ledger_that_cannot_tell_does_not_stop_calls(limiter: Limiter) -> None:
    async def broken(organization_id: str, asked: Any) -> list[int]:
        raise OSError("the database is gone")

    key = key_with(rule("spend", "month", 100))
    seeding.use(broken)
    try:
        await admit(limiter, key, spend=10)
        assert await usage(limiter, key) == [(0, 10)]
    finally:
        seeding.use(None)


@pytest.mark.parametrize("metric", ["requests", "tokens", "spend"])
@pytest.mark.parametrize("ends", ["settle", "release"])
async def test_a_window_leaves_calls_behind_of_which_nothing_is_held_or_used(
    limiter: Limiter, metric: str, ends: str
) -> None:
    key = key_with(rule(metric, "minute", 100))
    hold = await admit(limiter, key, tokens=50, spend=50)
    limiter.settle(hold, Used(0, 0)) if ends == "settle" else limiter.release(hold)
    for later in (70, 140):
        limiter.release(await admit(limiter, key, NOON + later, tokens=100, spend=100))
        assert await usage(limiter, key, NOON + later) == [(0, 0)]


async def test_a_counter_can_be_corrected(limiter: Limiter) -> None:
    key = key_with(rule("spend", "month", 100), rule("requests", "hour", 10))
    limiter.settle(await admit(limiter, key, spend=50), Used(0, 50))
    await limiter.correct(key.limits, [-20, 3], NOON, key.time_zone, key.organization_id)
    assert await usage(limiter, key) == [(30, 0), (4, 0)]


# ---- against a model a child could check

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["admit", "settle", "release", "wait"]),
        st.integers(0, 60),
        st.integers(0, 60),
    ),
    max_size=40,
)


class Model:
    """Calendar and lifetime limits as plain sums over a list of calls."""

    def __init__(self, rules: tuple[LimitRule, ...]) -> None:
        self.rules = rules
        self.calls: list[dict[str, Any]] = []

    def total(self, each: LimitRule, day: int) -> int:
        return sum(
            call["amount"][each.metric] for call in self.calls if call["day"] == day or each.period == "lifetime"
        )

    def fits(self, amount: dict[str, int], day: int) -> bool:
        return all(self.total(each, day) + amount[each.metric] <= each.amount for each in self.rules if each.hard)


@given(steps=STEPS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_of_steps_gives_what_plain_sums_give(kind: str, url: str, steps: list[tuple[str, int, int]]) -> None:
    async def run() -> None:
        rules = (
            rule("requests", "day", 6), rule("tokens", "day", 150), rule("spend", "lifetime", 400),
            rule("concurrent", "minute", 3), rule("tokens", "day", 50, hard=False),
        )  # fmt: skip
        key, model, day = key_with(*rules), Model(tuple(r for r in rules if r.metric != "concurrent")), 0
        running: list[tuple[Hold, dict[str, Any]]] = []
        async with keeper(kind, url) as limiter:
            for step, one, two in steps:
                if step == "admit":
                    amount = {"requests": 1, "tokens": one, "spend": two}
                    fits = model.fits(amount, day) and len(running) < 3
                    try:
                        hold = await admit(limiter, key, NOON + day * DAY, tokens=one, spend=two)
                    except LimitReached:
                        assert not fits
                        continue
                    assert fits
                    model.calls.append({"day": day, "amount": amount})
                    running.append((hold, model.calls[-1]))
                elif step == "wait":
                    day += one > 50
                elif running:
                    hold, call = running.pop(one % len(running))
                    if step == "settle":
                        call["amount"] = {"requests": 1, "tokens": one, "spend": two}
                        limiter.settle(hold, Used(one, two))
                    else:
                        call["amount"] = dict.fromkeys(call["amount"], 0)
                        limiter.release(hold)
            totals = [sum(pair) for pair in await usage(limiter, key, NOON + day * DAY)]
            expected = [len(running) if r.metric == "concurrent" else model.total(r, day) for r in rules]
            assert totals == expected
            for hold, _ in running:
                limiter.release(hold)
            assert [held for _, held in await usage(limiter, key, NOON + day * DAY)] == [0] * len(rules)

    asyncio.run(run())
