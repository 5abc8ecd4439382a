"""How far participants agree: Krippendorff's alpha over the items that several of them voted on.

1 is full agreement, 0 what chance would give, less is systematic disagreement. Preferences are ordered (one
answer, neither, the other), so the ordinal form is used: a vote against a tie counts as a lesser disagreement
than a vote against the opposite one.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import krippendorff
import numpy as np

from core.sessions.analysis.comparisons import FIRST, SECOND, TIE, Comparison

LEAST_ITEMS = 5


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
