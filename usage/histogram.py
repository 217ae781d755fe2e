"""Latency histograms that can be added up: counts per bound, so that percentiles of any merge can be told."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import cache

# Upper bounds in milliseconds, about 1.5 times apart where it matters; one more bucket holds what is above the last.
BOUNDS_MS = (
    5, 10, 20, 35, 50, 75, 100, 150, 200, 300, 450, 650, 1_000, 1_500, 2_200, 3_300, 5_000, 7_500,
    11_000, 17_000, 25_000, 40_000, 60_000, 120_000, 300_000,
)  # fmt: skip
SIZE = len(BOUNDS_MS) + 1


@cache
def columns(of: str) -> tuple[str, ...]:
    """The names of the columns that hold the counts of "ttft" or "total", in the order of the bounds."""
    return tuple([f"{of}_{slot:02}" for slot in range(SIZE)])


def slot(milliseconds: int) -> int:
    """The bucket of one value: values up to and including a bound belong to it."""
    return bisect_left(BOUNDS_MS, milliseconds)


def empty() -> list[int]:
    return [0] * SIZE


def merge(histograms: Iterable[Sequence[int]]) -> list[int]:
    """The sum. An empty list stands for a histogram without values."""
    return list(map(sum, zip(empty(), *filter(None, histograms), strict=True)))


def percentile(counts: Sequence[int], share: float) -> float | None:
    """The value below which `share` (0 to 1) of the values lie, in milliseconds, straight between two bounds.

    None without values. What lies above the last bound counts as the last bound.
    """
    values = sum(counts)
    if not values:
        return None
    rank, seen = share * values, 0
    for index, count in enumerate(counts):
        if count and seen + count >= rank:
            low = BOUNDS_MS[index - 1] if index else 0
            high = BOUNDS_MS[index] if index < len(BOUNDS_MS) else low
            return low + (high - low) * max(rank - seen, 0) / count
        seen += count
    return float(BOUNDS_MS[-1])
