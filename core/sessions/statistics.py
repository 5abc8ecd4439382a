"""The statistics of a session's votes: comparisons of two lanes each, their reliability, and strengths.

Votes and judgements become columns of numbers: which two lanes were compared, on which prompt, and which one
was preferred; real items and controls are kept apart. The statistics work on them and know nothing of people,
texts or pages. Intervals are at 95 %.

The agreement of participants is Krippendorff's alpha over the items that several of them voted on: 1 is full
agreement, 0 what chance would give, less is systematic disagreement. Preferences are ordered (one answer,
neither, the other), so the ordinal form is used: a vote against a tie counts as a lesser disagreement than a
vote against the opposite one.

Control pairs are two samples of one lane, or the same answer twice, voted on like any other pair. Whoever
prefers one of two equal answers does so by chance or by its side. How often that happens is the noise of the
session; real pairs have to be preferred more often than that to mean anything.

Strengths are Bradley–Terry strengths. Of the votes that prefer one of two lanes with strengths a and b, the
first gets a / (a + b). Ties follow Davidson's model (1970): they have a share of their own and leave the
odds between the two as they are, so the strengths are fitted to the votes that prefer one (by `evalica`),
and ties count as half a win in the score beside them. Strengths are shown in points as in Elo ratings, 0
being the mean of the session's lanes: 100 points more are 64 % of the votes that prefer one of the two.

Intervals of strengths are a bootstrap over prompts: what would have come out with other prompts of the same
kind. Votes on one prompt are about the same answers, so they don't vary independently: whole prompts are
drawn, with all their votes. The people are taken as they are. An interval is the estimate plus and minus its
standard error times a factor that makes a whole row of intervals hold at once in 95 of 100 cases (the 95 %
quantile of the largest deviation in the row). Over few prompts the factor is widened by Student's t.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import NormalDist
from typing import NamedTuple

import krippendorff
import numpy as np
from numpy.typing import NDArray

from core.bench.statistics import CONFIDENCE, Interval, t_quantile_975
from core.domain.sessions import ControlKind, Judgement, SessionItem, Verdict, Vote

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

FIRST, TIE, SECOND = 0, 1, 2
"""The outcomes of a comparison, as columns of a tally."""
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
_EXACT_UP_TO = 1000
LEAST_ITEMS = 5
_FLIPS = 9999

POINTS_PER_LOG_ODDS = 400 / math.log(10)
LEAST_PROMPTS = 8
LEAST_COMPARISONS = 20
"""With fewer prompts, or fewer comparisons of one of two lanes, nothing is decided between them."""
MOST_FURTHER_VOTES = 20_000
"""Two lanes that so many votes more would not separate are called alike."""
_POWER = 0.8
_PSEUDO_WINS = 0.5
"""Added to both sides of each compared pair, so that a lane that never lost has a finite strength.

In resamples they vary, exponentially around this, or else a lane that never lost would seem to be certain.
"""
_ITERATIONS = 1000
_TOLERANCE = 1e-6
RESAMPLES = 1000


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
        spread = math.sqrt(share * (1 - share) / self.total + z2 / (4 * self.total * self.total))
        half = _Z / (1 + z2 / self.total) * spread
        return Interval(max(0.0, centre - half), min(1.0, centre + half))

    @property
    def chance(self) -> float | None:
        """How likely a fair coin is to come out at least as unevenly; None for a total of 0."""
        if not self.total:
            return None
        fewer = min(self.count, self.total - self.count)
        if self.total > _EXACT_UP_TO:
            deviation = (self.total / 2 - fewer - 0.5) / math.sqrt(self.total / 4)
            return min(1.0, 2 * NormalDist().cdf(-deviation))
        ways = sum(math.comb(self.total, heads) for heads in range(fewer + 1))
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


class Margins(NamedTuple):
    """The error margins of a row of estimates."""

    errors: Floats
    """Standard error of each."""
    factor: float
    """Standard errors that an interval reaches to each side; infinite for a single prompt."""

    @property
    def half_widths(self) -> Floats:
        # Not infinity times zero, which is not a number.
        return self.errors * self.factor if self.factor < math.inf else np.full_like(self.errors, math.inf)


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
        return Margins(errors, math.inf)
    if not len(varying):
        return Margins(errors, 1.0)
    largest = np.max(np.abs(deviations[:, varying]) / errors[varying], axis=1)
    small_sample = t_quantile_975(prompts - 1) / _Z
    factor = float(np.quantile(largest, CONFIDENCE)) * small_sample * math.sqrt(prompts / (prompts - 1))
    return Margins(errors, factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneStanding:
    """One lane's strength with its interval; None where nothing connects it with the other lanes."""

    lane: int
    comparisons: int
    score_ratio: float | None
    """Comparisons that it won, ties as half."""
    points: float | None
    low: float | None
    """Of the interval that holds for all lanes at once."""
    high: float | None
    rank_low: int
    """The best rank that the votes leave open."""
    rank_high: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PairStanding:
    """Two lanes against each other."""

    first: int
    second: int
    first_wins: int
    ties: int
    second_wins: int
    difference: float | None
    """Points of the first above the second."""
    low: float | None
    """Of the interval that holds for all pairs at once."""
    high: float | None
    better: int | None
    """The lane that is better beyond doubt; None while that is not decided."""
    further_votes: int | None
    """About how many votes more, spread as before, would decide it; 0 if it is, None if no number tells."""

    @property
    def comparisons(self) -> int:
        return self.first_wins + self.ties + self.second_wins


@dataclass(frozen=True, slots=True, kw_only=True)
class Standings:
    """All lanes and pairs, in the session's order of lanes."""

    lanes: tuple[LaneStanding, ...]
    pairs: tuple[PairStanding, ...]
    prompts: int
    comparisons: int

    def is_ranked(self, lane: int) -> bool:
        """Whether the votes exclude any rank for the lane."""
        standing = self.lanes[lane]
        return (standing.rank_low, standing.rank_high) != (1, len(self.lanes))


def standings(
    comparisons: Comparisons, *, votes: int, resamples: int = RESAMPLES, seed: int = 20
) -> Standings:
    """Strengths with 95 % intervals; the same numbers each time for the same votes.

    `votes` is how many ballots the comparisons come from; a ranking gives several.
    """
    lanes = comparisons.lanes
    places = pairs_of(lanes)
    by_prompt = tallies(comparisons)
    total = by_prompt.sum(axis=0) if len(by_prompt) else np.zeros((len(places), 3))
    connected = _connected(total, lanes)
    points = np.full(lanes, np.nan)
    drawn = np.full((1, lanes), np.nan)
    if connected:
        points = _fit(total, np.full((len(places), 2), _PSEUDO_WINS), connected, lanes)
        tries = resampled(by_prompt, resamples=resamples, seed=seed)
        pseudo = np.random.default_rng(seed).exponential(_PSEUDO_WINS, (resamples, len(places), 2))
        drawn = np.array(
            [_fit(tally, extra, connected, lanes) for tally, extra in zip(tries, pseudo, strict=True)]
        )
    half = margins(points, drawn, len(by_prompt)).half_widths
    ones, others = np.array(places).T
    gaps = points[ones] - points[others]
    pairs = _pairs(
        total,
        gaps,
        margins(gaps, drawn[:, ones] - drawn[:, others], len(by_prompt)),
        prompts=len(by_prompt),
        votes=votes,
        lanes=lanes,
    )
    return Standings(
        lanes=tuple(_lane(lane, total, pairs, points[lane], half[lane], lanes) for lane in range(lanes)),
        pairs=pairs,
        prompts=len(by_prompt),
        comparisons=comparisons.count,
    )


def win_ratio(points: float) -> float:
    """The share of the votes that prefer one of two lanes which goes to one that is so many points above."""
    return 1 / (1 + math.exp(-points / POINTS_PER_LOG_ODDS))


def _fit(tally: Floats, pseudo: Floats, connected: list[int], lanes: int) -> Floats:
    """Points of the connected lanes for a tally (pairs × outcomes); NaN for the others."""
    # It loads pandas, which takes half a second and which reading and exporting sessions go without.
    from evalica.evalica import Winner, bradley_terry_pyo3

    index = {lane: place for place, lane in enumerate(connected)}
    first, second, winners, weights = [], [], [], []
    for (one, other), counts, extra in zip(pairs_of(lanes), tally, pseudo, strict=True):
        if one in index and other in index:
            first += [index[one]] * 2
            second += [index[other]] * 2
            winners += [Winner.X, Winner.Y]
            weights += [float(counts[FIRST] + extra[0]), float(counts[SECOND] + extra[1])]
    # Not `evalica.bradley_terry`, which makes a sorted pandas Series of each result: that takes many times as
    # long as the fit, and each interval needs hundreds of fits.
    scores, _ = bradley_terry_pyo3(
        first,
        second,
        winners,
        weights,
        total=len(connected),
        win_weight=1.0,
        tie_weight=0.5,
        tolerance=_TOLERANCE,
        limit=_ITERATIONS,
    )
    logs = np.log(scores)
    points = np.full(lanes, np.nan)
    points[connected] = (logs - logs.mean()) * POINTS_PER_LOG_ODDS
    return points


def _connected(total: Floats, lanes: int) -> list[int]:
    """The largest group of lanes that are linked by votes which prefer one; empty without such votes."""
    groups: list[set[int]] = [{lane} for lane in range(lanes)]
    for number, (one, other) in enumerate(pairs_of(lanes)):
        if total[number, FIRST] or total[number, SECOND]:
            joined = [group for group in groups if one in group or other in group]
            groups = [group for group in groups if group not in joined] + [set().union(*joined)]
    largest = max(groups, key=len)
    return sorted(largest) if len(largest) > 1 else []


def _pairs(
    total: Floats, gaps: Floats, margin: Margins, *, prompts: int, votes: int, lanes: int
) -> tuple[PairStanding, ...]:
    enough = [
        prompts >= LEAST_PROMPTS and _comparisons_of(lane, total, lanes) >= LEAST_COMPARISONS
        for lane in range(lanes)
    ]
    pairs = []
    for number, (one, other) in enumerate(pairs_of(lanes)):
        gap, half = gaps[number], margin.half_widths[number]
        decided = enough[one] and enough[other] and abs(gap) > half
        further = 0 if decided else _further_votes(gap, margin.errors[number], margin.factor, votes)
        pairs.append(
            PairStanding(
                first=one,
                second=other,
                first_wins=int(total[number, FIRST]),
                ties=int(total[number, TIE]),
                second_wins=int(total[number, SECOND]),
                difference=_known(gap),
                low=_known(gap - half),
                high=_known(gap + half),
                better=(one if gap > 0 else other) if decided else None,
                further_votes=further,
            )
        )
    return tuple(pairs)


def _further_votes(gap: float, error: float, factor: float, votes: int) -> int | None:
    """The error falls with the root of the number of votes; so many that four in five such rooms decide."""
    if not (gap and error > 0 and math.isfinite(factor)):
        return None
    needed = votes * ((factor + NormalDist().inv_cdf(_POWER)) * error / gap) ** 2
    further = max(1, math.ceil(needed - votes))
    return further if further <= MOST_FURTHER_VOTES else None


def _lane(
    lane: int, total: Floats, pairs: tuple[PairStanding, ...], points: float, half: float, lanes: int
) -> LaneStanding:
    decided = [pair.better for pair in pairs if lane in (pair.first, pair.second) and pair.better is not None]
    above = sum(better == lane for better in decided)
    compared = _comparisons_of(lane, total, lanes)
    won = sum(
        total[number, FIRST if one == lane else SECOND] + total[number, TIE] / 2
        for number, (one, other) in enumerate(pairs_of(lanes))
        if lane in (one, other)
    )
    return LaneStanding(
        lane=lane,
        comparisons=compared,
        score_ratio=float(won) / compared if compared else None,
        points=_known(points),
        low=_known(points - half),
        high=_known(points + half),
        rank_low=1 + len(decided) - above,
        rank_high=lanes - above,
    )


def _comparisons_of(lane: int, total: Floats, lanes: int) -> int:
    return int(sum(total[number].sum() for number, pair in enumerate(pairs_of(lanes)) if lane in pair))


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
