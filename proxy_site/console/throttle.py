"""At most so many an hour: for doors that strangers knock at. Each process counts for itself."""

from __future__ import annotations

from django.core.cache import cache

HOUR = 3600  # seconds


def within(name: str, most: int) -> bool:
    """Count one more of `name` within the hour; whether that is still allowed."""
    key = f"throttle:{name}"
    cache.add(key, 0, HOUR)
    try:
        return cache.incr(key) <= most
    except ValueError:  # it ended in between
        return True
