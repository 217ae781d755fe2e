"""Histograms: merging loses nothing, percentiles are near."""

from __future__ import annotations

import random

import pytest

from usage import histogram


def of(values: list[int]) -> list[int]:
    counts = histogram.empty()
    for value in values:
        counts[histogram.slot(value)] += 1
    return counts


def test_a_merge_of_parts_is_the_histogram_of_the_whole() -> None:
    chance = random.Random(1)
    parts = [[chance.randrange(400_000) for _ in range(50)] for _ in range(10)]
    assert histogram.merge(map(of, parts)) == of([value for part in parts for value in part])


def test_a_bound_belongs_to_the_bucket_below_it() -> None:
    assert histogram.slot(5) == 0
    assert histogram.slot(6) == 1
    assert histogram.slot(histogram.BOUNDS_MS[-1]) == histogram.SIZE - 2
    assert histogram.slot(histogram.BOUNDS_MS[-1] + 1) == histogram.SIZE - 1


@pytest.mark.parametrize("share", [0.5, 0.95, 0.99])
def test_a_percentile_lies_within_the_bucket_of_the_true_one(share: float) -> None:
    chance = random.Random(2)
    values = sorted(int(chance.lognormvariate(6, 1)) for _ in range(5_000))
    found = histogram.percentile(of(values), share)
    assert found is not None
    assert abs(histogram.slot(int(found)) - histogram.slot(values[int(share * 5_000)])) <= 1


def test_without_values_there_is_no_percentile() -> None:
    assert histogram.percentile([], 0.5) is None
    assert histogram.percentile(histogram.empty(), 0.5) is None


def test_an_empty_list_merges_as_nothing() -> None:
    assert histogram.merge([[], of([1]), []]) == of([1])
