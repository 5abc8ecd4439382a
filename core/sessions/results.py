"""The results of a session, of people's votes and of a model's judgements: the same for pages, reports and
files.

Votes and judgements are reported apart and never mixed. A model that judges is asked about each pair in both
orders, since models favour a side.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from core.domain.conversation import Sampling, messages_for
from core.domain.sessions import ControlKind, Judgement, Session, SessionItem, SessionPrompt, Verdict, Vote
from core.domain.specs import LaneSpec
from core.domain.turns import RequestPlan, TurnPlan
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
    of_judgements,
    of_votes,
    pairs_of,
    resampled,
    standings,
    tallies,
)

_GROUP_RESAMPLES = 400
_INSTRUCTION = """\
You compare two answers to the same question. Judge how correct, helpful, complete and clear they are, and \
whether they follow the instructions of the question. Neither the order nor the length of the answers may \
influence you. First compare them in at most five sentences. Then end with one of these lines: [[A]] if \
answer A is better, [[B]] if answer B is better, [[TIE]] if they are equally good, [[BAD]] if both are bad."""
_QUESTION = "[Question]\n{prompt}\n\n[Answer A]\n{first}\n\n[Answer B]\n{second}\n\n[End of the answers]"
_VERDICT = re.compile(r"\[\[\s*(A|B|TIE|C|BAD)\s*\]\]", re.IGNORECASE)
JUDGE_SAMPLING = Sampling(temperature=0.0, max_tokens=512)


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


@dataclass(frozen=True, slots=True)
class JudgeTask:
    """One item to judge, in one order."""

    item: int
    turned: bool

    @property
    def places(self) -> tuple[int, int]:
        """Places of the candidates shown as A and B."""
        return (1, 0) if self.turned else (0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeResult:
    """One judge's results, and how far to trust them."""

    judge: str
    judgements: int
    """With a usable verdict."""
    unusable: int
    """Failed, or without a verdict in the answer."""
    standings: Standings
    consistent: Share
    """Items judged the same in both orders."""
    first_shown: Share
    """Preferences for the answer that was shown first."""
    agreement: Share
    """Items on which a consistent preference and the people's majority name the same answer."""


def judge_tasks(
    session: Session, judgements: Iterable[Judgement], judge: str, most_items: int
) -> list[JudgeTask]:
    """Return what is left for this judge: both orders of up to so many real pairs, spread over the
    prompts.
    """
    pairs = [
        place
        for place, item in enumerate(session.items)
        if item.control is None and len(item.candidates) == 2
    ]
    chosen = pairs[:: max(1, len(pairs) // max(1, most_items))][:most_items]
    done = {
        (given.item, given.turned)
        for given in judgements
        if given.judge == judge and given.verdict is not None
    }
    tasks = [JudgeTask(item, turned) for item in chosen for turned in (False, True)]
    return [task for task in tasks if (task.item, task.turned) not in done]


def judge_turn(session: Session, task: JudgeTask, texts: Sequence[str], judge: LaneSpec) -> TurnPlan:
    """Return what the judge is sent; `texts` are those of the item's candidates."""
    item = session.items[task.item]
    prompt = session.plan.prompts.prompts[item.prompt]
    first, second = (texts[place] for place in task.places)
    question = _QUESTION.format(prompt=prompt.text, first=first, second=second)
    messages = messages_for(question, system=_INSTRUCTION, images=prompt.images)
    return TurnPlan(
        conversation_id=session.id,
        prompt=question,
        system_prompt=_INSTRUCTION,
        sampling=JUDGE_SAMPLING,
        images=prompt.images,
        requests=(RequestPlan(lane=judge, messages=messages),),
    )


def read_verdict(text: str, task: JudgeTask) -> tuple[Verdict | None, tuple[int, ...]]:
    """The verdict in a judge's answer, and the order of the item's candidates; None if it has none."""
    verdicts = _VERDICT.findall(text)
    if not verdicts:
        return None, ()
    match verdicts[-1].upper():
        case "A":
            return Verdict.PREFERRED, task.places
        case "B":
            return Verdict.PREFERRED, tuple(reversed(task.places))
        case "BAD":
            return Verdict.ALL_BAD, ()
        case _:
            return Verdict.TIE, ()


def judge_results(
    session: Session, judgements: Sequence[Judgement], votes: Iterable[Vote]
) -> tuple[JudgeResult, ...]:
    """One result for each judge."""
    by_judge: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        by_judge[judgement.judge].append(judgement)
    majority = _majorities(session.items, votes)
    return tuple(_result(session, judge, given, majority) for judge, given in by_judge.items())


def _result(
    session: Session, judge: str, judgements: Sequence[Judgement], majority: dict[int, int]
) -> JudgeResult:
    usable = [judgement for judgement in judgements if judgement.verdict is not None]
    by_item: dict[int, dict[bool, Judgement]] = defaultdict(dict)
    for judgement in usable:
        by_item[judgement.item][judgement.turned] = judgement
    both = {item: orders for item, orders in by_item.items() if len(orders) == 2}
    consistent = {
        item: _best(orders[False])
        for item, orders in both.items()
        if _best(orders[False]) == _best(orders[True])
    }
    preferring = [judgement for judgement in usable if judgement.verdict is Verdict.PREFERRED]
    shared = [item for item, best in consistent.items() if best is not None and item in majority]
    return JudgeResult(
        judge=judge,
        judgements=len(usable),
        unusable=len(judgements) - len(usable),
        standings=standings(
            columns(of_judgements(session.items, usable), len(session.plan.lanes)), votes=len(usable)
        ),
        consistent=Share(len(consistent), len(both)),
        first_shown=Share(
            sum(judgement.order[0] == int(judgement.turned) for judgement in preferring), len(preferring)
        ),
        agreement=Share(sum(consistent[item] == majority[item] for item in shared), len(shared)),
    )


def _best(judgement: Judgement) -> int | None:
    return judgement.order[0] if judgement.verdict is Verdict.PREFERRED else None


def _majorities(items: Sequence[SessionItem], votes: Iterable[Vote]) -> dict[int, int]:
    """The candidate that most people prefer, of each real pair on which more prefer one than the other."""
    net: dict[int, int] = defaultdict(int)
    for vote in votes:
        item = items[vote.item]
        if item.control is None and len(item.candidates) == 2 and vote.verdict is Verdict.PREFERRED:
            net[vote.item] += 1 if vote.order[0] == 0 else -1
    return {item: int(lead < 0) for item, lead in net.items() if lead}
