"""Bootstrap over prompts: what would have come out with other prompts of the same kind.

Votes on one prompt are about the same answers, so they don't vary independently: whole prompts are drawn,
with all their votes. The people are taken as they are. An interval is the estimate plus and minus its
standard error times a factor that makes a whole row of intervals hold at once in 95 of 100 cases (the 95 %
quantile of the largest deviation in the row). Over few prompts the factor is widened by Student's t.
"""

from math import inf, sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from core.bench.statistics import CONFIDENCE, t_quantile_975
from core.sessions.analysis.comparisons import Floats

RESAMPLES = 1000


class Margins(NamedTuple):
    """How far a row of estimates may be off."""

    errors: Floats
    """Standard error of each."""
    factor: float
    """Standard errors that an interval reaches to each side; infinite for a single prompt."""

    @property
    def half_widths(self) -> Floats:
        # Not infinity times zero, which is not a number.
        return self.errors * self.factor if self.factor < inf else np.full_like(self.errors, inf)


def resampled(counts: Floats, *, resamples: int = RESAMPLES, seed: int) -> Floats:
    """The sums of as many prompts as there are, drawn with replacement: resamples × what a prompt holds."""
    prompts = len(counts)
    drawn = np.random.default_rng(seed).multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples)
    return np.tensordot(drawn, counts, axes=1)


def margins(estimates: Floats, drawn: Floats, prompts: int) -> Margins:
    """Of estimates that were computed from so many prompts, and again from resamples (in rows)."""
    deviations = drawn - estimates
    errors: Floats = np.sqrt(np.mean(deviations**2, axis=0))
    varying = np.flatnonzero(errors > 0)
    if prompts < 2:
        return Margins(errors, inf)
    if not len(varying):
        return Margins(errors, 1.0)
    largest = np.max(np.abs(deviations[:, varying]) / errors[varying], axis=1)
    small_sample = t_quantile_975(prompts - 1) / NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    factor = float(np.quantile(largest, CONFIDENCE)) * small_sample * sqrt(prompts / (prompts - 1))
    return Margins(errors, factor)
