"""Histograms, and the text of statistics in the store."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chalicelib.histogram import BOUNDS, LARGEST_MS, Histogram
from chalicelib.statistics import Statistics, decoded, encoded

MS = st.integers(0, 10_000) | st.integers(0, LARGEST_MS)
PARTS = st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0])


def histogram(values: list[int]) -> Histogram:
    made = Histogram()
    made.add(values)
    return made


@given(st.lists(MS, min_size=1, max_size=200), PARTS)
def test_a_percentile_is_within_six_percent(values: list[int], part: float) -> None:
    exact = sorted(values)[max(1, math.ceil(part * len(values))) - 1]
    found = histogram(values).percentile_ms(part)
    assert found is not None
    assert abs(found - exact) <= 0.06 * exact


@given(st.lists(MS), st.lists(MS))
def test_a_merged_histogram_is_that_of_all_values(first: list[int], second: list[int]) -> None:
    merged = histogram(first)
    merged.merge(histogram(second))
    assert merged == histogram(first + second)
    assert (merged.count, merged.sum_ms) == (len(first + second), sum(first + second))
    assert merged.max_ms == max(first + second, default=0)


def test_the_bounds_never_change() -> None:
    assert BOUNDS[:12] == tuple(range(12))
    assert (len(BOUNDS), BOUNDS[100], sum(BOUNDS) % 1_000_003) == (249, 166_495, 187_017)


def test_what_is_out_of_range_counts_at_the_edge() -> None:
    assert histogram([-5]) == histogram([0])
    assert histogram([LARGEST_MS * 2]).max_ms == LARGEST_MS
    assert Histogram().percentile_ms(0.5) is None


@given(st.lists(MS), st.lists(MS))
def test_statistics_are_read_back(lateness: list[int], run_time: list[int]) -> None:
    one = Statistics(started=3, leases_lost=1, lateness=histogram(lateness))
    one.run_time = histogram(run_time)
    assert decoded(encoded({"Foo": one, "ä/b": Statistics()})) == {"Foo": one, "ä/b": Statistics()}


def test_what_a_newer_version_added_is_passed_over() -> None:
    read = decoded('{"Foo": [[1,2,3,4,5,6,7], [9,9,9,1], [], "more"]}'.replace("[], ", "[0,0], "))
    assert read == {"Foo": Statistics(1, 2, 3, 4, 5, 6, histogram([9]))}


@pytest.mark.parametrize(
    "text", ["", "[]", "7", '{"Foo": 7}', '{"Foo": [[1]]}', '{"Foo": [[1], [1, 1, 999, 1], [0,0]]}',
    '{"Foo": [[1], [1, 1, 3], [0, 0]]}', '{"Foo": [[1], [], [0, 0]]}'],
)  # fmt: skip
def test_what_cannot_be_read_is_told(text: str) -> None:
    with pytest.raises(ValueError):
        decoded(text)
