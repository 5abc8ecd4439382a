"""Makes the answers of a session: which are missing, the turns that ask for them, and where they go.

Prompts are sent to one lane after another, through the meter's own code, in a job's process, so that drawing
does not slow its clock. Each lane has the machine to itself: its engine starts when its part begins and, if
it was started for it, ends with it. A lane's failure is its own.
"""

import asyncio
import logging
import signal
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

from core.chat_api.client import open_session
from core.cluster.control import Engines
from core.domain.conversation import messages_for
from core.domain.sessions import Session, SessionAnswer, SessionPlan
from core.domain.specs import LaneSpec
from core.domain.turns import FinishReason, RequestPlan, RequestRecord, TurnPlan
from core.engines.leases import lease
from core.engines.resolve import find_endpoint
from core.engines.unfinished import StoppedRequests
from core.errors import LMDynoError
from core.i18n import N_
from core.images.store import ImageStore
from core.meter.devices import DeviceQueue, SampledUsage
from core.meter.turns import Surroundings, Turn, unless_stopped
from core.models.context import require_sendable
from core.sessions.items import second_samples
from core.sessions.wording import has_failed
from core.settings import Settings
from core.store.sessions import Sessions

Key = tuple[int, int, int]
"""Prompt, lane and sample."""
log = logging.getLogger(__name__)

GIVE_UP_AFTER = 3
"""A lane that fails so often in a row is not asked any further; what was not asked can be asked later."""

OnRecord = Callable[[int, RequestRecord], None]
"""Takes the place of a turn in its lane's part, and what came of it."""
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class LanePart:
    """The turns of one lane, each with a single request."""

    lane: LaneSpec
    turns: tuple[TurnPlan, ...]
    on_record: OnRecord


def ask_lanes(settings: Settings, parts: Sequence[LanePart], tell: Tell) -> bool:
    """Ask everything; False if it was stopped before the end. What was cut short is not reported.

    Main thread only: SIGTERM and SIGINT stop it. `tell` gets what is waited for.
    """
    return asyncio.run(_ask_lanes(settings, parts, tell))


async def _ask_lanes(settings: Settings, parts: Sequence[LanePart], tell: Tell) -> bool:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with closing(SampledUsage(settings)) as usage:
        usage.start()
        stopped = StoppedRequests(settings)
        async with open_session(on_left=stopped.note) as session:
            around = Surroundings(
                session=session,
                resolve=partial(find_endpoint, settings),
                lease=partial(lease, settings),
                image_url=ImageStore(settings.images_dir).data_url,
                devices=DeviceQueue(settings.locks_dir),
                stopped=stopped,
                usage=usage,
            )
            for part in parts:
                if stop.is_set():
                    break
                with closing(Engines(settings, (part.lane,))) as engines:
                    await unless_stopped(stop, _bring_up(engines, part.lane, tell))
                    await _ask_lane(part, around, stop)
    return not stop.is_set()


async def _bring_up(engines: Engines, lane: LaneSpec, tell: Tell) -> None:
    """Start what does not run; if it can't start, each answer's error says so."""
    tell(N_("{lane}: getting ready", lane=lane.name))
    try:
        await engines.ready(lane, tell)
    except LMDynoError as error:
        log.warning("engine not ready lane=%s code=%s", lane.name, error.code)


async def _ask_lane(part: LanePart, around: Surroundings, stop: asyncio.Event) -> None:
    failures = 0
    for place, plan in enumerate(part.turns):
        turn = Turn(plan, around, lambda _: None)
        await unless_stopped(stop, turn.run())
        (record,) = turn.records()
        if record.finish_reason is FinishReason.CANCELLED or stop.is_set():
            return
        part.on_record(place, record)
        failures = failures + 1 if record.error else 0
        if failures == GIVE_UP_AFTER:
            log.warning("lane given up lane=%s code=%s", part.lane.name, record.error and record.error.code)
            return


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
