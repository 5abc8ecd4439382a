"""The statistics of a benchmark: pure functions of numbers, the same in every chart, table and file.

Percentiles are NumPy's linear ones, as in vLLM, SGLang, LMDeploy and AIPerf. Intervals are at 95 %. What
can't be told from the values at hand is None.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist, fmean, stdev

import numpy as np

CONFIDENCE = 0.95
P90_MIN_N = 10
P95_MIN_N = 30
P99_MIN_N = 100
"""With fewer values a percentile's place in the tail is mostly chance; it is shown greyed."""
_RESAMPLES = 1000
_RESAMPLED_REQUESTS = 2000
"""With more of them a mean is so nearly normal that resampling would only take its time."""

# Student's t at 97.5 %, for 1 to 30 degrees of freedom.
_T_975 = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """The spread of one metric over a point's requests (or their tokens); seconds, for all metrics here."""

    n: int
    mean: float
    interval: Interval | None
    """Of the mean, by bootstrap over requests, above 2,000 by the normal approximation; None below two."""
    p50: float
    p90: float
    p95: float
    p99: float
    low: float
    high: float


class Stability(StrEnum):
    """AIPerf's bands for the coefficient of variation over repeats."""

    EXCELLENT = "excellent"
    """Below 5 %."""
    GOOD = "good"
    """Below 10 %."""
    FAIR = "fair"
    """Below 20 %."""
    POOR = "poor"


@dataclass(frozen=True, slots=True, kw_only=True)
class RepeatStatistics:
    """One figure over the repeats of a point."""

    n: int
    mean: float
    interval: Interval | None
    """By Student's t; None for fewer than two repeats."""
    cv_ratio: float | None
    """Coefficient of variation: sample standard deviation by mean."""

    @property
    def stability(self) -> Stability | None:
        if self.cv_ratio is None:
            return None
        bands = ((0.05, Stability.EXCELLENT), (0.1, Stability.GOOD), (0.2, Stability.FAIR))
        return next((band for limit, band in bands if self.cv_ratio < limit), Stability.POOR)


def distribution(values: Sequence[float], *, seed: int) -> Distribution | None:
    """The distribution of one value a request; None without any."""
    return grouped_distribution([(value,) for value in values], seed=seed)


def median_of_known(values: Iterable[float | None]) -> float | None:
    """The p50 of the values that are known."""
    known = [value for value in values if value is not None]
    return float(np.percentile(known, 50)) if known else None


def grouped_distribution(groups: Sequence[Sequence[float]], *, seed: int) -> Distribution | None:
    """The distribution of all values together, each group holding those of one request.

    The interval of the mean comes from resampling whole requests: the gaps within one answer are not
    independent of each other, and taking them as such would make it far too narrow.
    """
    filled = [np.asarray(group, dtype=float) for group in groups if len(group)]
    if not filled:
        return None
    values = np.concatenate(filled)
    p50, p90, p95, p99 = (float(p) for p in np.percentile(values, (50, 90, 95, 99)))
    return Distribution(
        n=len(values),
        mean=float(values.mean()),
        interval=_mean_interval(filled, seed) if len(filled) > 1 else None,
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        low=float(values.min()),
        high=float(values.max()),
    )


def over_repeats(values: Sequence[float]) -> RepeatStatistics | None:
    """Mean, t-interval and coefficient of variation of one figure a repeat; None without any."""
    if not values:
        return None
    mean = fmean(values)
    if len(values) < 2:
        return RepeatStatistics(n=1, mean=mean, interval=None, cv_ratio=None)
    spread = stdev(values)
    half = t_quantile_975(len(values) - 1) * spread / len(values) ** 0.5
    return RepeatStatistics(
        n=len(values),
        mean=mean,
        interval=Interval(mean - half, mean + half),
        cv_ratio=spread / abs(mean) if mean else None,
    )


def t_quantile_975(degrees_of_freedom: int) -> float:
    """Student's t at 97.5 %: tabled, and for more than 30 degrees by the Cornish-Fisher expansion."""
    if degrees_of_freedom < 1:
        raise ValueError("Student's t needs a degree of freedom")
    if degrees_of_freedom <= len(_T_975):
        return _T_975[degrees_of_freedom - 1]
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / degrees_of_freedom + second / degrees_of_freedom**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """One mean over another, such as a speed-up."""

    value: float
    interval: Interval | None
    """By bootstrap over the requests of both; None if either has fewer than two."""
    n: int
    """Values in the smaller of the two samples."""

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 1, that is: whether there is a difference at all."""
        return self.interval is not None and not self.interval.low <= 1 <= self.interval.high


def wilson(successes: int, trials: int) -> Interval | None:
    """Wilson's score interval for a share (Wilson 1927), within 0 and 1 for any n; None without trials."""
    if not trials:
        return None
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    share, z2 = successes / trials, z * z
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = z / (1 + z2 / trials) * (share * (1 - share) / trials + z2 / (4 * trials * trials)) ** 0.5
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def mean_ratio(numerator: Sequence[float], denominator: Sequence[float], *, seed: int) -> Ratio | None:
    """mean(numerator) / mean(denominator) of two independent samples; None where that is undefined."""
    if not numerator or not denominator or not (below := fmean(denominator)):
        return None
    value = fmean(numerator) / below
    n = min(len(numerator), len(denominator))
    if n < 2:
        return Ratio(value=value, interval=None, n=n)
    means = []
    for place, sample in enumerate((numerator, denominator)):
        groups = [np.asarray((number,), dtype=float) for number in sample]
        if len(groups) > _RESAMPLED_REQUESTS:
            source = np.random.default_rng(seed + place)
            means.append(source.normal(fmean(sample), _standard_error(groups), _RESAMPLES))
        else:
            means.append(_resampled_means(groups, seed + place))
    return Ratio(value=value, interval=_interval(means[0] / means[1]), n=n)


def _mean_interval(groups: Sequence[np.ndarray], seed: int) -> Interval:
    if len(groups) <= _RESAMPLED_REQUESTS:
        return _interval(_resampled_means(groups, seed))
    mean = float(sum(group.sum() for group in groups)) / sum(group.size for group in groups)
    half = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * _standard_error(groups)
    return Interval(mean - half, mean + half)


def _standard_error(groups: Sequence[np.ndarray]) -> float:
    """Of the mean of all values, with the groups as independent units (the ratio estimator's)."""
    sums = np.array([group.sum() for group in groups])
    sizes = np.array([group.size for group in groups], dtype=float)
    residuals = sums - sums.sum() / sizes.sum() * sizes
    return float(residuals.std(ddof=1) / np.sqrt(len(groups)) / sizes.mean())


def _resampled_means(groups: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """Means of `_RESAMPLES` samples of as many groups, drawn with replacement."""
    sums = np.array([group.sum() for group in groups])
    sizes = np.array([group.size for group in groups], dtype=float)
    drawn = np.random.default_rng(seed).integers(len(groups), size=(_RESAMPLES, len(groups)))
    means: np.ndarray = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    return means


def _interval(means: np.ndarray) -> Interval:
    low, high = np.percentile(means, (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)))
    return Interval(float(low), float(high))
