"""What only the limiter in memory has to see to: counters of limits that are gone do not stay for good."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from keys.context import LimitRule
from keys.limits import memory, seeding
from keys.limits.base import LimitReached, Used
from keys.limits.memory import MemoryLimiter
from tests.keys.limiting import NOON, admit, key_with, rule, usage

DAY = 86_400.0


@pytest.fixture
def ledger() -> Iterator[dict[str, int]]:
    """What the ledger knows was used, by limit."""
    known: dict[str, int] = {}

    async def rebuild(_organization: str, asked: Sequence[tuple[LimitRule, float]]) -> list[int]:
        return [known.get(rule.id, 0) for rule, _since in asked]

    seeding.use(rebuild)
    yield known
    seeding.use(None)


@pytest.fixture
def limiter(monkeypatch: pytest.MonkeyPatch) -> MemoryLimiter:
    monkeypatch.setattr(memory, "SWEEP", 2)
    return MemoryLimiter()


async def others(limiter: MemoryLimiter, now: float) -> None:
    """Other keys make new counters, so that old ones are looked for."""
    for _ in range(2):
        await admit(limiter, key_with(rule(amount=100)), now)


async def test_the_counter_of_a_limit_that_is_gone_goes(limiter: MemoryLimiter, ledger: dict[str, int]) -> None:
    for period in ("minute", "day", "lifetime"):
        await admit(limiter, key_with(rule(period=period)))
    limiter.release(await admit(limiter, key_with(rule("concurrent"))))
    await others(limiter, NOON + 4 * DAY)
    assert len(limiter._counters) == len(limiter._begun) == 2, "only the others'"


async def test_a_limit_that_was_only_idle_goes_on_with_what_was_used(
    limiter: MemoryLimiter, ledger: dict[str, int]
) -> None:
    lasting = rule("tokens", "lifetime", 100)
    key = key_with(lasting)
    limiter.settle(await admit(limiter, key, tokens=60), Used(60, 0))
    ledger[lasting.id] = 60
    await others(limiter, NOON + 4 * DAY)
    with pytest.raises(LimitReached):
        await admit(limiter, key, NOON + 4 * DAY, tokens=50)
    await admit(limiter, key, NOON + 4 * DAY, tokens=40)
    assert await usage(limiter, key, NOON + 4 * DAY) == [(60, 40)]


async def test_a_counter_that_is_asked_or_holds_something_stays(limiter: MemoryLimiter, ledger: dict[str, int]) -> None:
    busy, held = key_with(rule(period="lifetime")), key_with(rule("concurrent", amount=1))
    await admit(limiter, busy)
    await admit(limiter, held)
    await admit(limiter, busy, NOON + 3 * DAY)
    await others(limiter, NOON + 4 * DAY)
    assert await usage(limiter, busy, NOON + 4 * DAY) == [(2, 0)]
    with pytest.raises(LimitReached):
        await admit(limiter, held, NOON + 4 * DAY)


async def test_without_a_ledger_nothing_that_was_used_is_forgotten(limiter: MemoryLimiter) -> None:
    key = key_with(rule(period="lifetime", amount=1))
    await admit(limiter, key)
    await others(limiter, NOON + 4 * DAY)
    with pytest.raises(LimitReached):
        await admit(limiter, key, NOON + 4 * DAY)
