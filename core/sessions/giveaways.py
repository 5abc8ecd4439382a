"""Answers that name a lane or a model, which a host should check before anybody votes."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath

from core.domain.sessions import SessionAnswer, SessionPlan
from core.domain.specs import LaneSpec

_FAMILY = re.compile(r"[A-Za-z]{4,}")
"""The start of a model's name that its relatives share, such as `Qwen` of `Qwen2.5-7B-Instruct`."""
_SHORTEST = 4
"""Shorter names are words of their own too often."""


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
