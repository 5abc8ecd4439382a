import random
from statistics import fmean

import numpy as np
import pytest

from core.bench.statistics import (
    Stability,
    distribution,
    grouped_distribution,
    mean_ratio,
    over_repeats,
    t_quantile_975,
    wilson,
)


def test_percentiles_are_linear_between_the_values():
    found = distribution([1.0, 2.0, 3.0, 4.0], seed=0)
    assert (found.p50, found.p90, found.mean, found.n) == (2.5, 3.7, 2.5, 4)
    assert (found.low, found.high) == (1.0, 4.0)


def test_nothing_has_no_distribution():
    assert distribution([], seed=0) is None
    assert grouped_distribution([(), ()], seed=0) is None


def test_one_value_has_no_interval():
    assert distribution([1.0], seed=0).interval is None


def test_the_bootstrap_is_repeatable_and_holds_the_mean():
    source = random.Random(1)
    values = [source.gauss(10, 2) for _ in range(200)]
    first, again, other = (distribution(values, seed=seed).interval for seed in (5, 5, 6))
    assert first == again != other
    assert first.low < fmean(values) < first.high


def interval_hits(draw, tries=200):
    source, hits = random.Random(7), 0
    for number in range(tries):
        interval = distribution([draw(source) for _ in range(40)], seed=number).interval
        hits += interval.low <= 10 <= interval.high
    return hits / tries


def test_about_95_per_cent_of_the_intervals_hold_the_truth():
    assert 0.88 < interval_hits(lambda source: source.gauss(10, 3)) <= 0.99


def test_many_requests_get_the_same_interval_without_resampling():
    source = random.Random(2)
    values = [source.expovariate(0.1) for _ in range(2001)]
    large = distribution(values, seed=0).interval
    resampled = distribution(values[:2000], seed=0).interval
    assert large.low == pytest.approx(resampled.low, rel=0.05)
    assert large.high == pytest.approx(resampled.high, rel=0.05)


def test_gaps_of_one_answer_are_not_taken_as_independent():
    source = random.Random(3)
    groups = []
    for _ in range(30):
        level = source.gauss(10, 2)
        groups.append([level] * 50)
    together = grouped_distribution(groups, seed=0)
    pooled = distribution([value for group in groups for value in group], seed=0)
    assert together.mean == pytest.approx(pooled.mean)
    width = together.interval.high - together.interval.low
    assert width > 4 * (pooled.interval.high - pooled.interval.low)


def test_longer_answers_weigh_more_in_the_mean_of_their_gaps():
    found = grouped_distribution([[1.0] * 3, [5.0]], seed=0)
    assert (found.mean, found.n) == (2.0, 4)


@pytest.mark.parametrize(
    ("degrees", "expected"),
    [(1, 12.706), (2, 4.303), (30, 2.042), (40, 2.0211), (120, 1.9799), (10**6, 1.96)],
)
def test_students_t(degrees, expected):
    assert t_quantile_975(degrees) == pytest.approx(expected, abs=2e-4)


def test_over_repeats():
    found = over_repeats([9.0, 10.0, 11.0])
    assert (found.mean, found.n, found.cv_ratio) == (10.0, 3, 0.1)
    assert found.interval.high == pytest.approx(10 + 4.303 / 3**0.5)
    assert over_repeats([]) is None
    assert over_repeats([3.0]).interval is None


@pytest.mark.parametrize(
    ("spread", "band"),
    [(0.04, Stability.EXCELLENT), (0.06, Stability.GOOD), (0.15, Stability.FAIR), (0.3, Stability.POOR)],
)
def test_stability_bands(spread, band):
    # Three values at mean ± spread have exactly that coefficient of variation.
    found = over_repeats([1 - spread, 1.0, 1 + spread])
    assert found.cv_ratio == pytest.approx(spread)
    assert found.stability is band


def test_a_ratio_is_clear_only_if_its_interval_leaves_out_one():
    source = random.Random(4)
    slow = [source.gauss(2, 0.1) for _ in range(50)]
    fast = [source.gauss(1, 0.1) for _ in range(50)]
    ratio = mean_ratio(slow, fast, seed=0)
    assert ratio.value == pytest.approx(fmean(slow) / fmean(fast))
    assert ratio.interval.low < ratio.value < ratio.interval.high
    assert ratio.is_clear
    assert not mean_ratio(fast, fast, seed=0).is_clear


def test_a_ratio_that_is_undefined():
    assert mean_ratio([], [1.0], seed=0) is None
    assert mean_ratio([1.0], [0.0], seed=0) is None
    assert mean_ratio([1.0], [2.0], seed=0).interval is None


def test_percentiles_equal_numpys():
    source = random.Random(5)
    values = [source.random() for _ in range(137)]
    found = distribution(values, seed=0)
    assert [found.p50, found.p90, found.p95, found.p99] == list(np.percentile(values, (50, 90, 95, 99)))


@pytest.mark.parametrize(
    ("right", "asked", "low", "high"),
    # Newcombe 1998 (Statistics in Medicine 17, table I), method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_is_the_published_one(right, asked, low, high):
    interval = wilson(right, asked)
    assert interval.low == pytest.approx(low, abs=5e-5)
    assert interval.high == pytest.approx(high, abs=5e-5)


def test_nothing_asked_has_no_interval():
    assert wilson(0, 0) is None
