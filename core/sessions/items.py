"""From the answers of a session to what its participants vote on.

Answers that failed are left out: they are that lane's result, counted apart. Two lanes that gave the same
text are no question of taste, so nobody votes on them as a pair; they are counted too, and some serve as
control items. Prompts are mixed by category, so that every part of the list holds all of them. Answers that
name a lane or a model are found, for the host to check before anybody votes.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations, zip_longest
from pathlib import PurePath

from core.domain.sessions import (
    MOST_RANKED,
    AnswerTexts,
    Candidate,
    ControlKind,
    SessionAnswer,
    SessionItem,
    SessionPlan,
    VotingMode,
)
from core.domain.specs import LaneSpec
from core.domain.turns import FinishReason

CONTROL_EVERY = 5
"""Every so many prompts a second answer of a lane is made, where sampling makes it differ."""
_FAMILY = re.compile(r"[A-Za-z]{4,}")
"""The start of a model's name that its relatives share, such as `Qwen` of `Qwen2.5-7B-Instruct`."""
_SHORTEST = 4
"""Shorter names are words of their own too often."""


@dataclass(frozen=True, slots=True)
class Ballot:
    """The items that a session votes on."""

    items: tuple[SessionItem, ...]
    """Real ones first, in the mixed order of prompts; then the controls."""
    identical_pairs: int


def usable_texts(answers: Iterable[SessionAnswer]) -> AnswerTexts:
    """The texts that can be voted on: of answers that came to an end and say something."""
    return {
        (answer.prompt, Candidate(answer.lane, answer.sample)): answer.record.text.strip()
        for answer in answers
        if answer.record.finish_reason in (FinishReason.STOP, FinishReason.LENGTH, None)
        and answer.record.error is None
        and answer.record.text.strip()
    }


def second_samples(plan: SessionPlan) -> tuple[tuple[int, int], ...]:
    """Prompt and lane of each answer to make twice; none for greedy sampling, which repeats itself."""
    if plan.sampling.greedy or not plan.control_ratio:
        return ()
    lanes = len(plan.lanes)
    chosen = mixed_prompts(plan)[::CONTROL_EVERY]
    return tuple((prompt, number % lanes) for number, prompt in enumerate(chosen))


def build_ballot(plan: SessionPlan, texts: AnswerTexts) -> Ballot:
    """The items of a session whose answers are made."""
    lanes = range(len(plan.lanes))
    real: list[SessionItem] = []
    identical: list[SessionItem] = []
    for prompt in mixed_prompts(plan):
        answered = [lane for lane in lanes if (prompt, Candidate(lane)) in texts]
        for one, other in combinations(answered, 2):
            pair = (Candidate(one), Candidate(other))
            if texts[prompt, pair[0]] == texts[prompt, pair[1]]:
                identical.append(SessionItem(prompt=prompt, candidates=pair, control=ControlKind.IDENTICAL))
            elif plan.mode is VotingMode.PAIRWISE:
                real.append(SessionItem(prompt=prompt, candidates=pair))
        if plan.mode is VotingMode.RANKING:
            real += _ranked(prompt, answered, texts)
    two_samples = [
        SessionItem(
            prompt=prompt,
            candidates=(Candidate(lane, 0), Candidate(lane, 1)),
            control=ControlKind.TWO_SAMPLES,
        )
        for prompt, lane in second_samples(plan)
        if _differ(texts, prompt, lane)
    ]
    controls = [*two_samples, *(identical or _repeated(real))] if plan.control_ratio else []
    return Ballot((*real, *controls), len(identical))


def mixed_prompts(plan: SessionPlan) -> list[int]:
    """The places of the prompts: the first of each category and language, then the second of each."""
    by_category: dict[tuple[str, str], list[int]] = {}
    for place, prompt in enumerate(plan.prompts.prompts):
        by_category.setdefault((prompt.category, prompt.language), []).append(place)
    rounds = zip_longest(*by_category.values())
    return [place for places in rounds for place in places if place is not None]


def _ranked(prompt: int, answered: list[int], texts: AnswerTexts) -> list[SessionItem]:
    """Every choice of up to four lanes; of lanes that gave the same text, one takes part, in turn."""
    by_text: dict[str, list[int]] = {}
    for lane in answered:
        by_text.setdefault(texts[prompt, Candidate(lane)], []).append(lane)
    different = sorted(lanes[prompt % len(lanes)] for lanes in by_text.values())
    if len(different) < 2:
        return []
    size = min(MOST_RANKED, len(different))
    return [
        SessionItem(prompt=prompt, candidates=tuple(Candidate(lane) for lane in chosen))
        for chosen in combinations(different, size)
    ]


def _differ(texts: AnswerTexts, prompt: int, lane: int) -> bool:
    first, second = texts.get((prompt, Candidate(lane, 0))), texts.get((prompt, Candidate(lane, 1)))
    return first is not None and second is not None and first != second


def _repeated(real: list[SessionItem]) -> list[SessionItem]:
    """The same answer on both sides, where no two lanes ever gave the same one."""
    return [
        SessionItem(prompt=item.prompt, candidates=(item.candidates[0],) * 2, control=ControlKind.IDENTICAL)
        for item in real[::CONTROL_EVERY]
    ]


@dataclass(frozen=True, slots=True)
class Giveaway:
    """A name of a lane or its model in an answer."""

    prompt: int
    lane: int
    word: str


def giveaways(plan: SessionPlan, answers: Iterable[SessionAnswer]) -> tuple[Giveaway, ...]:
    """The first name in each answer that holds one which its prompt does not; any lane's name counts."""
    words = sorted({word.casefold() for lane in plan.lanes for word in _names(lane)})
    shown = []
    for answer in answers:
        asked = plan.prompts.prompts[answer.prompt].text.casefold()
        answered = answer.record.text.casefold()
        word = next((word for word in words if word in answered and word not in asked), None)
        if word is not None:
            shown.append(Giveaway(answer.prompt, answer.lane, word))
    return tuple(shown)


def _names(lane: LaneSpec) -> list[str]:
    models = [lane.model.name, lane.model.checkpoint] if lane.model else []
    if lane.endpoint and lane.endpoint.model:
        models.append(lane.endpoint.model)
    families = [_FAMILY.match(PurePath(model).name) for model in models]
    names = [lane.name, *(family.group() for family in families if family)]
    return [name for name in names if len(name) >= _SHORTEST]
