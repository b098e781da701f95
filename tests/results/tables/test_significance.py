"""Pairing by seed, and Holm's correction against numbers made by hand."""

import pytest
from scipy import stats

from stq.results.tables.significance import holm, mean_and_spread, paired


def test_differences_are_those_of_the_same_seed_whatever_the_order():
    ours, theirs = {0: 81.0, 1: 85.0, 2: 83.0, 9: 1.0}, {2: 82.0, 7: 99.0, 0: 80.0, 1: 81.0}
    found = paired(ours, theirs)
    assert (found.n, found.mean) == (3, pytest.approx((1 + 4 + 1) / 3))
    expected = stats.ttest_1samp([1, 4, 1], 0)
    interval = expected.confidence_interval(0.95)
    assert (found.low, found.high, found.p) == pytest.approx((interval.low, interval.high, expected.pvalue))
    back = paired(theirs, ours)
    assert (back.mean, back.low, back.p) == pytest.approx((-found.mean, -found.high, found.p))


def test_one_common_seed_is_no_comparison_and_one_value_has_no_spread():
    assert paired({0: 80.0, 1: 90.0}, {1: 85.0, 2: 70.0}) is None
    assert mean_and_spread([80.0]) == (80.0, None)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (
            {"b": 0.02, "a": 0.01, "c": 0.03},
            {"a": 0.03, "b": 0.04, "c": 0.04},
        ),  # the third is no better than the second
        ({"a": 0.6, "b": 0.7}, {"a": 1.0, "b": 1.0}),
        ({"a": 0.01, "b": None, "c": 0.04}, {"a": 0.02, "b": None, "c": 0.04}),  # what was not asked costs nothing
        ({}, {}),
    ],
)
def test_holm_by_hand(asked, expected):
    assert holm(asked) == pytest.approx(expected)
