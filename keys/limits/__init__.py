"""Limits that bind: which rules hold for a call, and the limiter of this process.

`open` chooses the keeper: Redis when there is one (all processes count together), this process's memory otherwise.
Nobody has to open anything: without it, calls are counted in memory.
"""

from __future__ import annotations

from functools import lru_cache

from django.conf import settings

from keys import policy
from keys.context import KeyContext, LimitRule
from keys.limits.memory import MemoryLimiter
from keys.limits.redis import RedisLimiter
from lib.store import store

_limiter: MemoryLimiter | RedisLimiter | None = None


def current() -> MemoryLimiter | RedisLimiter:
    """The limiter of this process."""
    global _limiter
    if _limiter is None:
        _limiter = MemoryLimiter()
    return _limiter


async def open() -> None:
    """The store must be open already."""
    global _limiter
    _limiter = RedisLimiter(store) if settings.REDIS_URL else MemoryLimiter()
    await _limiter.open()


async def close() -> None:
    """Before the store is closed."""
    global _limiter
    if _limiter is not None:
        await _limiter.close()
    _limiter = None


@lru_cache(maxsize=4096)
def _matching(rules: tuple[LimitRule, ...], model: str) -> tuple[LimitRule, ...]:
    return tuple(rule for rule in rules if policy.matches(rule.pattern, model))


def rules_for(key: KeyContext, model: str) -> tuple[LimitRule, ...]:
    """The limits of key, team and organization that hold for this model."""
    return _matching(key.limits, model) if key.limits else ()
