"""Makes the answers of a session: which are missing, the turns that ask for them, and where they go."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from core.domain.conversation import messages_for
from core.domain.sessions import Session, SessionAnswer, SessionPlan
from core.domain.turns import RequestPlan, RequestRecord, TurnPlan
from core.i18n import N_
from core.models.vision.context import require_sendable
from core.sessions.figures import has_failed
from core.sessions.items import second_samples
from core.sessions.run.asking import LanePart, Tell, ask_lanes
from core.settings import Settings
from core.store.sessions.sessions import Sessions

Key = tuple[int, int, int]
"""Prompt, lane and sample."""


def planned_answers(plan: SessionPlan) -> tuple[Key, ...]:
    """All answers of a session, lane by lane, each lane's second samples last."""
    firsts = [
        (prompt, lane, 0) for lane in range(len(plan.lanes)) for prompt in range(len(plan.prompts.prompts))
    ]
    seconds = [(prompt, lane, 1) for prompt, lane in second_samples(plan)]
    return tuple(sorted((*firsts, *seconds), key=lambda key: (key[1], key[2])))


def missing_answers(plan: SessionPlan, answers: Iterable[SessionAnswer]) -> tuple[Key, ...]:
    """Those that are not there, or failed."""
    there = {
        (answer.prompt, answer.lane, answer.sample) for answer in answers if not has_failed(answer.record)
    }
    return tuple(key for key in planned_answers(plan) if key not in there)


def turn_for(session: Session, key: Key) -> TurnPlan:
    """One prompt as a turn of its own, for one lane."""
    prompt, lane, sample = key
    asked = session.plan.prompts.prompts[prompt]
    sampling = session.plan.sampling
    if sample and sampling.seed is not None:
        sampling = replace(sampling, seed=sampling.seed + sample)
    messages = messages_for(asked.text, system=session.plan.system_prompt, images=asked.images)
    return TurnPlan(
        conversation_id=session.id,
        prompt=asked.text,
        system_prompt=session.plan.system_prompt,
        sampling=sampling,
        images=asked.images,
        requests=(RequestPlan(lane=session.plan.lanes[lane], messages=messages),),
    )


def check_sendable(plan: SessionPlan) -> None:
    """Raise InputError for a lane that can't be sent one of the images."""
    for lane in plan.lanes:
        for prompt in plan.prompts.prompts:
            if prompt.images:
                require_sendable(lane, messages_for(prompt.text, images=prompt.images))


def make_answers(
    settings: Settings,
    store: Sessions,
    session: Session,
    tell: Tell,
    on_progress: Callable[[str, float], None],
) -> bool:
    """Make the missing answers; False if it was stopped before the end. Each is stored as it is made."""
    missing = missing_answers(session.plan, store.answers(session.id))
    total = len(planned_answers(session.plan))
    done = total - len(missing)

    def keep(key: Key, record: RequestRecord) -> None:
        nonlocal done
        prompt, lane, sample = key
        store.save_answers(
            session.id, [SessionAnswer(prompt=prompt, lane=lane, sample=sample, record=record)]
        )
        done += 1
        name = session.plan.lanes[lane].name
        on_progress(N_("{lane}: {done} of {total} answers", lane=name, done=done, total=total), done / total)

    def part_of(lane: int) -> LanePart:
        keys = [key for key in missing if key[1] == lane]
        return LanePart(
            lane=session.plan.lanes[lane],
            turns=tuple(turn_for(session, key) for key in keys),
            on_record=lambda place, record: keep(keys[place], record),
        )

    parts = [part_of(lane) for lane in range(len(session.plan.lanes))]
    return ask_lanes(settings, [part for part in parts if part.turns], tell)
