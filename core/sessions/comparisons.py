"""Votes and judgements as comparisons of two lanes each, their shares, and the reliability of participants.

Comparisons are columns of numbers: which two lanes were compared, on which prompt, and which one was
preferred; real items and controls are kept apart. The statistics work on them and know nothing of people,
texts or pages. Intervals are at 95 %.

The agreement of participants is Krippendorff's alpha over the items that several of them voted on: 1 is full
agreement, 0 what chance would give, less is systematic disagreement. Preferences are ordered (one answer,
neither, the other), so the ordinal form is used: a vote against a tie counts as a lesser disagreement than a
vote against the opposite one.

Control pairs are two samples of one lane, or the same answer twice, voted on like any other pair. Whoever
prefers one of two equal answers does so by chance or by its side. How often that happens is the noise of the
session; real pairs have to be preferred more often than that to mean anything.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb, sqrt
from statistics import NormalDist
from typing import NamedTuple

import krippendorff
import numpy as np
from numpy.typing import NDArray

from core.bench.statistics import CONFIDENCE, Interval
from core.domain.sessions import ControlKind, Judgement, SessionItem, Verdict, Vote

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

FIRST, TIE, SECOND = 0, 1, 2
"""The outcomes of a comparison, as columns of a tally."""
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
_EXACT_UP_TO = 1000

LEAST_ITEMS = 5
_FLIPS = 9999


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
