"""What control pairs tell: two samples of one lane, or the same answer twice, voted on like any other pair.

Whoever prefers one of two equal answers does so by chance or by its side. How often that happens is the
room's noise; real pairs have to be preferred more often than that to mean anything.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.domain.sessions import ControlKind
from core.sessions.analysis.comparisons import FIRST, SECOND, TIE, Comparison
from core.sessions.analysis.shares import Share

_FLIPS = 9999


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
    """Which of two samples comes first is arbitrary, so flipping a prompt's votes as a whole must not matter.

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
