"""The results of a session, computed from its votes: the same for pages, reports and files.

Votes of people and judgements of models are never mixed; `core.sessions.judging` has the latter.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from core.domain.sessions import ControlKind, Session, SessionItem, SessionPrompt, Verdict, Vote
from core.sessions.statistics import (
    FIRST,
    SECOND,
    TIE,
    Agreement,
    Comparison,
    ControlResult,
    Floats,
    Share,
    Standings,
    agreement,
    columns,
    comparisons_of,
    control_result,
    margins,
    of_votes,
    pairs_of,
    resampled,
    standings,
    tallies,
)

_GROUP_RESAMPLES = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupScore:
    """One lane's score in a part of the prompts."""

    group: str
    lane: int
    comparisons: int
    score_ratio: float | None
    """Comparisons that it won, ties as half."""
    low: float | None
    """Of the interval that holds for all lanes of the group at once."""
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployResult:
    """The second votes, given with lanes and figures in view."""

    changed: Share
    """Votes whose preference differs from the first one."""
    wins: tuple[int, ...]
    """Second votes for each lane, in the session's order."""
    first_wins: tuple[int, ...]
    """First votes of the same people on the same items."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionResults:
    """Everything that the votes say."""

    participants: int
    """Those with at least one vote."""
    votes: int
    """On real items, without those that were skipped."""
    skipped: int
    all_bad: Share
    """Votes on real items that find all answers bad."""
    preferred: Share
    """Votes on real items that prefer one answer."""
    median_s: float | None
    """Time that a vote took."""
    standings: Standings
    categories: tuple[GroupScore, ...]
    languages: tuple[GroupScore, ...]
    left: Share
    """Preferences, on all items, for the answer on the left (of several: on the left half)."""
    agreement: Agreement
    controls: tuple[ControlResult, ...]
    deploy: DeployResult | None
    """None without second votes."""
    reasons: tuple[Counter[str], ...]
    """How often each reason was given for each lane that was preferred."""


def compute_results(session: Session, votes: Sequence[Vote]) -> SessionResults:
    """The results for these votes; quick enough to be computed anew after each."""
    items, lanes = session.items, len(session.plan.lanes)
    given = [vote for vote in votes if vote.verdict is not Verdict.SKIPPED]
    real = [vote for vote in given if items[vote.item].control is None]
    compared = of_votes(items, real)
    durations = [vote.took_s for vote in given if vote.took_s is not None]
    return SessionResults(
        participants=len({vote.participant_id for vote in given}),
        votes=len(real),
        skipped=len(votes) - len(given),
        all_bad=Share(sum(vote.verdict is Verdict.ALL_BAD for vote in real), len(real)),
        preferred=Share(sum(vote.verdict is Verdict.PREFERRED for vote in real), len(real)),
        median_s=median(durations) if durations else None,
        standings=standings(columns(compared, lanes), votes=len(real)),
        categories=_groups(session, compared, lambda prompt: prompt.category),
        languages=_groups(session, compared, lambda prompt: prompt.language),
        left=_left(given),
        agreement=agreement(compared),
        controls=_controls(items, given),
        deploy=_deploy(items, lanes, real),
        reasons=_reasons(items, lanes, real),
    )


def _groups(
    session: Session, compared: Iterable[Comparison], group_of: Callable[[SessionPrompt], str]
) -> tuple[GroupScore, ...]:
    """Scores by a property of the prompts; none if all prompts share it."""
    prompts = session.plan.prompts.prompts
    names = list(dict.fromkeys(group_of(prompt) for prompt in prompts))
    if len(names) < 2:
        return ()
    by_group: dict[str, list[Comparison]] = defaultdict(list)
    for comparison in compared:
        by_group[group_of(prompts[comparison.prompt])].append(comparison)
    lanes = len(session.plan.lanes)
    return tuple(score for name in names for score in _group_scores(name, by_group[name], lanes))


def _group_scores(group: str, compared: Sequence[Comparison], lanes: int) -> list[GroupScore]:
    counts = tallies(columns(compared, lanes))
    if not len(counts):
        return [
            GroupScore(group=group, lane=lane, comparisons=0, score_ratio=None, low=None, high=None)
            for lane in range(lanes)
        ]
    total = counts.sum(axis=0)
    scores, numbers = _scores(total, lanes)
    drawn = np.array(
        [_scores(tally, lanes)[0] for tally in resampled(counts, resamples=_GROUP_RESAMPLES, seed=20)]
    )
    # A lane that was not drawn at all scores as in the whole.
    half = margins(scores, np.where(np.isnan(drawn), scores, drawn), len(counts)).half_widths
    return [
        GroupScore(
            group=group,
            lane=lane,
            comparisons=int(numbers[lane]),
            score_ratio=float(scores[lane]) if numbers[lane] else None,
            low=max(0.0, float(scores[lane] - half[lane])) if numbers[lane] else None,
            high=min(1.0, float(scores[lane] + half[lane])) if numbers[lane] else None,
        )
        for lane in range(lanes)
    ]


def _scores(tally: Floats, lanes: int) -> tuple[Floats, Floats]:
    """Score and number of comparisons of each lane, for a tally of pairs × outcomes."""
    won, compared = np.zeros(lanes), np.zeros(lanes)
    for (one, other), counts in zip(pairs_of(lanes), tally, strict=True):
        won[one] += counts[FIRST] + counts[TIE] / 2
        won[other] += counts[SECOND] + counts[TIE] / 2
        compared[[one, other]] += counts.sum()
    return np.divide(won, compared, out=np.full(lanes, np.nan), where=compared > 0), compared


def _left(votes: Iterable[Vote]) -> Share:
    left = right = 0
    for vote in votes:
        if vote.verdict is Verdict.PREFERRED:
            position, size = vote.shown.index(vote.order[0]), len(vote.shown)
            left += position < size // 2
            right += position >= (size + 1) // 2
    return Share(left, left + right)


def _controls(items: Sequence[SessionItem], votes: Iterable[Vote]) -> tuple[ControlResult, ...]:
    compared: dict[ControlKind, list[Comparison]] = defaultdict(list)
    for vote in votes:
        item = items[vote.item]
        if item.control is not None:
            compared[item.control] += comparisons_of(item, vote.verdict, vote.order)
    return tuple(control_result(kind, compared[kind]) for kind in ControlKind if compared[kind])


def _deploy(items: Sequence[SessionItem], lanes: int, real: Iterable[Vote]) -> DeployResult | None:
    again = [vote for vote in real if vote.deploy is not None]
    if not again:
        return None
    before = [_best_lane(items[vote.item], vote.verdict, vote.order) for vote in again]
    after = [_best_lane(items[vote.item], vote.deploy, vote.deploy_order) for vote in again]
    changed = sum(first != second for first, second in zip(before, after, strict=True))
    return DeployResult(
        changed=Share(changed, len(again)),
        wins=tuple(after.count(lane) for lane in range(lanes)),
        first_wins=tuple(before.count(lane) for lane in range(lanes)),
    )


def _reasons(items: Sequence[SessionItem], lanes: int, real: Iterable[Vote]) -> tuple[Counter[str], ...]:
    counted: tuple[Counter[str], ...] = tuple(Counter() for _ in range(lanes))
    for vote in real:
        best = _best_lane(items[vote.item], vote.verdict, vote.order)
        if best is not None:
            counted[best].update(vote.reasons)
    return counted


def _best_lane(item: SessionItem, verdict: Verdict | None, order: Sequence[int]) -> int | None:
    return item.candidates[order[0]].lane if verdict is Verdict.PREFERRED else None
