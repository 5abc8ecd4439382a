"""Two lanes that did the same things: how far their answers agree, and tests and intervals for paired values.

The agreement of two greedy answers is taken token by token, over lists of token ids or of pieces of text.
Greedy decoding has no chance in it, so two engines with the same weights differ only by rounding: one near
tie that falls the other way changes all that follows. The share of equal positions therefore says less than
where the answers part.

Differences have exact tests and 95 % intervals. Pairing matters: two lanes err on the same hard questions,
and what they share says nothing about how they differ. Pure functions; nothing here knows lanes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import StrEnum
from itertools import takewhile
from math import comb, sqrt
from statistics import NormalDist

import numpy as np

from core.bench.statistics import Interval, wilson

_RESAMPLES = 2000
_EXACT_UP_TO = 1000
"""Discordant pairs up to which McNemar's test is computed exactly; above, by the normal approximation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """One answer against the reference's."""

    reference_tokens: int
    tokens: int
    prefix_tokens: int
    """Equal tokens from the start."""
    equal_positions: int
    """Positions with the same token in both."""

    @property
    def identical(self) -> bool:
        return self.prefix_tokens == self.reference_tokens == self.tokens

    @property
    def longest(self) -> int:
        return max(self.reference_tokens, self.tokens)

    @property
    def parts_at(self) -> int | None:
        """The place of the first different token, counted from 0; None if there is none."""
        return None if self.identical else self.prefix_tokens

    @property
    def token_ratio(self) -> float | None:
        """Equal positions by those of the longer answer; None if both are empty."""
        return self.equal_positions / self.longest if self.longest else None

    @property
    def prefix_ratio(self) -> float | None:
        return self.prefix_tokens / self.longest if self.longest else None


class Change(StrEnum):
    SAME = "same"
    ONLY_REFERENCE = "only-reference"
    ONLY_LANE = "only-lane"


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a diff."""

    change: Change
    text: str


def agreement(reference: Sequence[int], lane: Sequence[int]) -> Agreement:
    pairs = [one == other for one, other in zip(reference, lane, strict=False)]
    return Agreement(
        reference_tokens=len(reference),
        tokens=len(lane),
        prefix_tokens=sum(1 for _ in takewhile(bool, pairs)),
        equal_positions=sum(pairs),
    )


def diff(reference: Sequence[str], lane: Sequence[str]) -> tuple[Piece, ...]:
    """Return what the answers have in common and where they differ, in the order of reading.

    Both are given as the texts of their tokens, or in words.
    """
    pieces: list[Piece] = []
    matcher = SequenceMatcher(None, reference, lane, autojunk=False)
    for operation, start, end, lane_start, lane_end in matcher.get_opcodes():
        if operation == "equal":
            pieces.append(Piece(Change.SAME, "".join(reference[start:end])))
            continue
        if end > start:
            pieces.append(Piece(Change.ONLY_REFERENCE, "".join(reference[start:end])))
        if lane_end > lane_start:
            pieces.append(Piece(Change.ONLY_LANE, "".join(lane[lane_start:lane_end])))
    return tuple(pieces)


@dataclass(frozen=True, slots=True, kw_only=True)
class McNemar:
    """McNemar's test of two lanes on the same questions."""

    n: int
    """Questions that both were graded on."""
    only_reference: int
    """Right by the reference, not by the lane."""
    only_lane: int
    """Right by the lane, not by the reference."""
    p_value: float
    """Two-sided; 1 without any discordant pair."""
    difference_ratio: float
    """Share right of the lane minus that of the reference."""
    interval: Interval | None
    """Of the difference (Newcombe 1998, method 10 for paired proportions); None for n = 0."""


def mcnemar(pairs: Sequence[tuple[bool, bool]]) -> McNemar | None:
    """The exact test of (reference right, lane right), one a question; None without any."""
    if not pairs:
        return None
    only_reference = sum(reference and not lane for reference, lane in pairs)
    only_lane = sum(lane and not reference for reference, lane in pairs)
    both = sum(reference and lane for reference, lane in pairs)
    n = len(pairs)
    return McNemar(
        n=n,
        only_reference=only_reference,
        only_lane=only_lane,
        p_value=_two_sided(only_reference, only_lane),
        difference_ratio=(only_lane - only_reference) / n,
        interval=_newcombe(both, only_lane, only_reference, n - both - only_lane - only_reference),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """A lane's mean minus the reference's, over the same sequences."""

    value: float
    interval: Interval | None
    """By bootstrap over whole sequences; None below two."""

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0, that is: whether there is a difference at all."""
        return self.interval is not None and not self.interval.low <= 0 <= self.interval.high


def mean_difference(
    lane: Sequence[float], reference: Sequence[float], sizes: Sequence[int], *, seed: int = 0
) -> PairedDifference | None:
    """The difference per unit of sums over groups of `sizes` units; None without any unit.

    Groups are resampled whole: the tokens of one text are not independent of each other.
    """
    weights = np.asarray(sizes, dtype=float)
    if not weights.sum():
        return None
    differences = np.asarray(lane, dtype=float) - np.asarray(reference, dtype=float)
    value = float(differences.sum() / weights.sum())
    if len(weights) < 2:
        return PairedDifference(value=value, interval=None)
    drawn = np.random.default_rng(seed).integers(len(weights), size=(_RESAMPLES, len(weights)))
    means = differences[drawn].sum(axis=1) / weights[drawn].sum(axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return PairedDifference(value=value, interval=Interval(float(low), float(high)))


def _two_sided(one: int, other: int) -> float:
    """The chance of a split of the discordant pairs at least as uneven, if either way is equally likely."""
    total, smaller = one + other, min(one, other)
    if total == 0:
        return 1.0
    if total > _EXACT_UP_TO:
        distance = max(0.0, abs(one - other) - 1) / sqrt(total)
        return 2 * (1 - NormalDist().cdf(distance))
    tail = sum(comb(total, k) for k in range(smaller + 1))
    return min(1.0, tail / (1 << (total - 1)))


def _newcombe(both: int, only_lane: int, only_reference: int, neither: int) -> Interval | None:
    """Newcombe's interval for paired proportions, from the Wilson limits of each and their correlation."""
    n = both + only_lane + only_reference + neither
    right_lane, right_reference = both + only_lane, both + only_reference
    lane, reference = wilson(right_lane, n), wilson(right_reference, n)
    if lane is None or reference is None:
        return None
    p_lane, p_reference = right_lane / n, right_reference / n
    product = right_lane * (n - right_lane) * right_reference * (n - right_reference)
    phi = _phi(both, only_lane, only_reference, neither, product, n)
    lower = _root(p_lane - lane.low, reference.high - p_reference, phi)
    upper = _root(lane.high - p_lane, p_reference - reference.low, phi)
    difference = p_lane - p_reference
    return Interval(difference - lower, difference + upper)


def _phi(both: int, only_lane: int, only_reference: int, neither: int, product: int, n: int) -> float:
    if product == 0:
        return 0.0
    covariance = both * neither - only_lane * only_reference
    # Newcombe's continuity correction, for positive correlations only.
    corrected = max(covariance - n / 2, 0.0) if covariance > 0 else covariance
    return corrected / sqrt(product)


def _root(one: float, other: float, phi: float) -> float:
    return sqrt(max(0.0, one * one - 2 * phi * one * other + other * other))
