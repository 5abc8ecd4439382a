"""A model as a judge of a session's pairs: what it is asked, how its answer is read, and what came out.

It sees each pair in both orders, since models favour a side. Its judgements are reported apart from people's
votes and never mixed into them.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from core.domain.conversation import Sampling, messages_for
from core.domain.sessions import Judgement, Session, SessionItem, Verdict, Vote
from core.domain.specs import LaneSpec
from core.domain.turns import RequestPlan, TurnPlan
from core.sessions.statistics import Share, Standings, columns, of_judgements, standings

_INSTRUCTION = """\
You compare two answers to the same question. Judge how correct, helpful, complete and clear they are, and \
whether they follow the instructions of the question. Neither the order nor the length of the answers may \
influence you. First compare them in at most five sentences. Then end with one of these lines: [[A]] if \
answer A is better, [[B]] if answer B is better, [[TIE]] if they are equally good, [[BAD]] if both are bad."""
_QUESTION = "[Question]\n{prompt}\n\n[Answer A]\n{first}\n\n[Answer B]\n{second}\n\n[End of the answers]"
_VERDICT = re.compile(r"\[\[\s*(A|B|TIE|C|BAD)\s*\]\]", re.IGNORECASE)
JUDGE_SAMPLING = Sampling(temperature=0.0, max_tokens=512)


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
