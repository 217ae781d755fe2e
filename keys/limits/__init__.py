"""Limits that bind: which rules hold for a call, and the limiter of this process.

`open` chooses the keeper: Redis when there is one (all processes count together), this process's memory otherwise.
"""

from __future__ import annotations

from functools import lru_cache

from keys import policy
from keys.context import KeyContext, LimitRule
from keys.limits.base import Limiter

_limiter: Limiter | None = None


def current() -> Limiter | None:
    """The limiter of this process."""
    return _limiter


@lru_cache(maxsize=4096)
def _matching(rules: tuple[LimitRule, ...], model: str) -> tuple[LimitRule, ...]:
    return tuple(rule for rule in rules if policy.matches(rule.pattern, model))


def rules_for(key: KeyContext, model: str) -> tuple[LimitRule, ...]:
    """The limits of key, team and organization that hold for this model."""
    return _matching(key.limits, model) if key.limits else ()
