"""The reliability of participants: their agreement, and what they prefer where there is nothing to prefer.

Krippendorff's alpha over the items that several of them voted on: 1 is full agreement, 0 what chance would
give, less is systematic disagreement. Preferences are ordered (one answer, neither, the other), so the
ordinal form is used: a vote against a tie counts as a lesser disagreement than a vote against the opposite
one.

Control pairs are two samples of one lane, or the same answer twice, voted on like any other pair. Whoever
prefers one of two equal answers does so by chance or by its side. How often that happens is the noise of the
session; real pairs have to be preferred more often than that to mean anything.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import krippendorff
import numpy as np

from core.domain.sessions import ControlKind
from core.sessions.analysis.comparisons import FIRST, SECOND, TIE, Comparison, Share

LEAST_ITEMS = 5
_FLIPS = 9999


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Agreement between participants."""

    alpha: float | None
    """None for fewer than `LEAST_ITEMS` shared items, or if all votes are alike."""
    items: int
    """Pairs of answers that at least two participants voted on."""
    votes: int
    """Votes on these."""


def agreement(comparisons: Iterable[Comparison]) -> Agreement:
    """Alpha over prompts and pairs of lanes; the comparisons as each participant gave them."""
    votes: dict[tuple[int, int, int], Counter[int]] = defaultdict(Counter)
    for given in comparisons:
        if given.first < given.second:
            votes[given.prompt, given.first, given.second][given.outcome] += 1
        else:
            votes[given.prompt, given.second, given.first][SECOND - given.outcome] += 1
    counts = np.array(
        [[cast[FIRST], cast[TIE], cast[SECOND]] for cast in votes.values() if cast.total() > 1]
    ).reshape(-1, 3)
    alpha = None
    if len(counts) >= LEAST_ITEMS and np.count_nonzero(counts.sum(axis=0)) > 1:
        alpha = float(
            krippendorff.alpha(
                value_counts=counts, value_domain=[FIRST, TIE, SECOND], level_of_measurement="ordinal"
            )
        )
    return Agreement(alpha=alpha, items=len(counts), votes=int(counts.sum()))


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlResult:
    """Votes on one kind of control pair."""

    kind: ControlKind
    preferred: Share
    """Votes that prefer one of the two."""
    chance: float | None
    """How likely an unbiased room is to favour first or second samples so much; None for identical answers,
    and without votes that prefer one."""


def control_result(kind: ControlKind, comparisons: Sequence[Comparison], *, seed: int = 20) -> ControlResult:
    """The result for comparisons whose `first` is sample 0 and `second` sample 1 of one lane."""
    preferred = Share(sum(each.outcome != TIE for each in comparisons), len(comparisons))
    chance = _sign_flip(comparisons, seed) if kind is ControlKind.TWO_SAMPLES else None
    return ControlResult(kind=kind, preferred=preferred, chance=chance)


def _sign_flip(comparisons: Sequence[Comparison], seed: int) -> float | None:
    """Return how likely so uneven a preference is by chance, flipping each prompt's votes as a whole: it is
    arbitrary which of two samples comes first.

    An exact test whatever the voters agree on: one sample may well be better than the other.
    """
    net: dict[int, int] = defaultdict(int)
    for comparison in comparisons:
        net[comparison.prompt] += (comparison.outcome == FIRST) - (comparison.outcome == SECOND)
    margins = np.array([margin for margin in net.values() if margin])
    if not len(margins):
        return None
    signs = np.random.default_rng(seed).choice((-1, 1), size=(_FLIPS, len(margins)))
    as_extreme = np.count_nonzero(np.abs(signs @ margins) >= abs(margins.sum()))
    return float((1 + as_extreme) / (1 + _FLIPS))
