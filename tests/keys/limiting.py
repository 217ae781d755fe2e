"""Limiters, rules and keys as the tests of limits need them: everything has a default."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from keys.context import KeyContext, LimitRule
from keys.limits.base import Ask, Hold
from keys.limits.memory import MemoryLimiter
from keys.limits.redis import RedisLimiter
from lib.ids import uuid7

Limiter = MemoryLimiter | RedisLimiter
NANO = 10**9
NOON = 1_795_608_000.0  # 2026-11-25 12:00 UTC, a Wednesday


def rule(metric: str = "requests", period: str = "minute", amount: int = 10, **given: Any) -> LimitRule:
    values: dict[str, Any] = {"id": str(uuid4()), "subject": "key", "subject_id": "key-1"}
    return LimitRule(metric=metric, period=period, amount=amount, **(values | given))  # type: ignore[arg-type]  # short words for tests


def key_with(*rules: LimitRule, organization: str = "", **given: Any) -> KeyContext:
    """A key of an organization that nobody else in this run has."""
    return KeyContext(
        key_id="key-1", key_name="ci", secret_id="secret-1",
        organization_id=organization or str(uuid4()), organization="acme", limits=rules, **given,
    )  # fmt: skip


def ask(tokens: int = 0, spend: int = 0) -> Ask:
    return Ask(str(uuid7()), "gemini-2.5-flash", tokens, spend)


async def admit(limiter: Limiter, key: KeyContext, now: float = NOON, *, tokens: int = 0, spend: int = 0) -> Hold:
    return await limiter.admit(key, key.limits, ask(tokens, spend), now)


async def usage(limiter: Limiter, key: KeyContext, now: float = NOON) -> list[tuple[int, int]]:
    """(used, held) of each of the key's limits."""
    return await limiter.usage(key.limits, now, key.time_zone, key.organization_id)
