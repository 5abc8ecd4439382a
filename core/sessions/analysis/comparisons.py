"""Votes and judgements as comparisons of two lanes each, and shares of them with their 95 % intervals.

Comparisons are columns of numbers: which two lanes were compared, on which prompt, and which one was
preferred; real items and controls are kept apart. The statistics work on them and know nothing of people,
texts or pages.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb, sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.bench.statistics import CONFIDENCE, Interval
from core.domain.sessions import Judgement, SessionItem, Verdict, Vote

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

FIRST, TIE, SECOND = 0, 1, 2
"""The outcomes of a comparison, as columns of a tally."""
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
_EXACT_UP_TO = 1000


class Comparison(NamedTuple):
    """One judgement of two lanes, by their places in the session."""

    prompt: int
    first: int
    second: int
    outcome: int
    """`FIRST`, `TIE` or `SECOND`."""


@dataclass(frozen=True, slots=True)
class Comparisons:
    """Judgements as columns, each with the lane of the lower place first."""

    lanes: int
    prompt: Ints
    pair: Ints
    """Place in `pairs_of(lanes)`."""
    outcome: Ints

    @property
    def count(self) -> int:
        return len(self.prompt)


def pairs_of(lanes: int) -> list[tuple[int, int]]:
    """Every two lanes once, the lower place first."""
    return list(combinations(range(lanes), 2))


def columns(comparisons: Iterable[Comparison], lanes: int) -> Comparisons:
    """The judgements as columns."""
    place = {pair: number for number, pair in enumerate(pairs_of(lanes))}
    rows = [
        (comparison.prompt, place[comparison.first, comparison.second], comparison.outcome)
        if comparison.first < comparison.second
        else (comparison.prompt, place[comparison.second, comparison.first], SECOND - comparison.outcome)
        for comparison in comparisons
    ]
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return Comparisons(lanes, table[:, 0], table[:, 1], table[:, 2])


def tallies(comparisons: Comparisons) -> Floats:
    """Return how often each pair ended how, for each prompt with comparisons: prompts × pairs × outcomes."""
    prompts, rows = np.unique(comparisons.prompt, return_inverse=True)
    counts = np.zeros((len(prompts), len(pairs_of(comparisons.lanes)), 3))
    np.add.at(counts, (rows, comparisons.pair, comparisons.outcome), 1)
    return counts


def comparisons_of(
    item: SessionItem, verdict: Verdict | None, order: Sequence[int]
) -> tuple[Comparison, ...]:
    """Return what a vote on an item says of each two of its answers; nothing for one that was skipped.

    `order` has places of candidates, the best first. For real items lanes are compared, for controls the
    candidates themselves.
    """
    if verdict in (None, Verdict.SKIPPED):
        return ()
    rank = {place: number for number, place in enumerate(order)}
    compared = []
    for one, other in combinations(range(len(item.candidates)), 2):
        outcome = TIE if verdict is not Verdict.PREFERRED else FIRST if rank[one] < rank[other] else SECOND
        first, second = (
            (item.candidates[one].lane, item.candidates[other].lane) if item.control is None else (one, other)
        )
        compared.append(Comparison(item.prompt, first, second, outcome))
    return tuple(compared)


def of_votes(items: Sequence[SessionItem], votes: Iterable[Vote]) -> list[Comparison]:
    """All comparisons that the votes on real items say."""
    return [
        comparison
        for vote in votes
        if items[vote.item].control is None
        for comparison in comparisons_of(items[vote.item], vote.verdict, vote.order)
    ]


def of_judgements(items: Sequence[SessionItem], judgements: Iterable[Judgement]) -> list[Comparison]:
    return [
        comparison
        for judgement in judgements
        if items[judgement.item].control is None
        for comparison in comparisons_of(items[judgement.item], judgement.verdict, judgement.order)
    ]


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many."""

    count: int
    total: int

    @property
    def ratio(self) -> float | None:
        return self.count / self.total if self.total else None

    @property
    def interval(self) -> Interval | None:
        """Wilson's score interval (1927); it keeps within 0 and 1 for any total. None for a total of 0."""
        if not self.total:
            return None
        share, z2 = self.count / self.total, _Z * _Z
        centre = (share + z2 / (2 * self.total)) / (1 + z2 / self.total)
        spread = sqrt(share * (1 - share) / self.total + z2 / (4 * self.total * self.total))
        half = _Z / (1 + z2 / self.total) * spread
        return Interval(max(0.0, centre - half), min(1.0, centre + half))

    @property
    def chance(self) -> float | None:
        """How likely a fair coin is to come out at least as unevenly; None for a total of 0."""
        if not self.total:
            return None
        fewer = min(self.count, self.total - self.count)
        if self.total > _EXACT_UP_TO:
            deviation = (self.total / 2 - fewer - 0.5) / sqrt(self.total / 4)
            return min(1.0, 2 * NormalDist().cdf(-deviation))
        ways = sum(comb(self.total, heads) for heads in range(fewer + 1))
        return min(1.0, float(2 * ways / 2**self.total))
