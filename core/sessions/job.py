"""Background jobs that generate a session's answers, or have them judged by a lane.

`python -m core.sessions.job FOLDER FD` is the worker of both. Prompts are sent to one lane after another,
through the meter's own code, in the job's process, so that drawing does not slow its clock. Each lane has the
machine to itself: its engine starts when its part begins and, if it was started for it, ends with it. A
lane's failure is its own.
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from core import process_setup
from core.chat_api.client import open_session
from core.cluster.control import Engines
from core.codec import decode, encode
from core.domain.conversation import messages_for
from core.domain.sessions import Judgement, Session, SessionAnswer, SessionPlan, SessionRecord
from core.domain.specs import LaneSpec
from core.domain.turns import FinishReason, RequestPlan, RequestRecord, TurnPlan
from core.engines.registry import lease
from core.engines.requests import StoppedRequests
from core.engines.resolve import find_endpoint
from core.errors import LMDynoError
from core.i18n import N_, Text
from core.images.store import ImageStore
from core.jobs.registry import Jobs, JobStatus
from core.jobs.worker import Report, run
from core.meter.devices import DeviceQueue, SampledUsage
from core.meter.turns import Surroundings, Turn, unless_stopped
from core.models.context import require_sendable
from core.sessions.items import second_samples, usable_texts
from core.sessions.results import JudgeTask, judge_tasks, judge_turn, read_verdict
from core.sessions.telling import has_failed
from core.settings import Settings, load_settings
from core.store.sessions import Sessions
from core.telemetry.nvml import describe_machine

ANSWERS_KIND = "session-answers"
JUDGING_KIND = "session-judging"

Key = tuple[int, int, int]
"""Prompt, lane and sample."""
log = logging.getLogger(__name__)

GIVE_UP_AFTER = 3
"""A lane that fails so often in a row is not asked any further; what was not asked can be asked later."""

OnRecord = Callable[[int, RequestRecord], None]
"""Takes the place of a turn in its lane's part, and what came of it."""
Tell = Callable[[str], None]


def start_answers(settings: Settings, session: Session) -> str:
    """Generate answers that are missing, in a process of its own; returns the job's id.

    Raises InputError while that is being done already, and for a lane that can't be sent one of the images.
    """
    check_sendable(session.plan)
    title = N_("Answers for {title}", title=session.plan.title)
    return _start(settings, session, ANSWERS_KIND, title, {})


def start_judging(settings: Settings, session: Session, judge: LaneSpec, *, most_items: int) -> str:
    """Have a lane judge up to so many items in both orders; returns the job's id."""
    title = N_("{judge} judges {title}", judge=judge.name, title=session.plan.title)
    arguments = {"judge": encode(judge).decode(), "most_items": most_items}
    return _start(settings, session, JUDGING_KIND, title, arguments)


def job_of(settings: Settings, session_id: str, kind: str) -> JobStatus | None:
    """The newest job of a kind for a session; None if there was none."""
    statuses = Jobs(settings).statuses(kind)
    return next((status for status in statuses if status.spec.arguments.get("session") == session_id), None)


def _start(settings: Settings, session: Session, kind: str, title: Text, arguments: Mapping[str, Any]) -> str:
    return Jobs(settings).start_module(
        kind,
        "core.sessions.job",
        {"session": session.id, **arguments},
        title=title,
        already_running=N_("This is already running for the session."),
        is_same=lambda spec: spec.arguments.get("session") == session.id,
    )


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
    stop = process_setup.stop_on_signals()
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


def _answer(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    """Make what is missing; each answer is stored as it comes."""
    process_setup.configure_logs()
    settings = load_settings()
    with closing(Sessions(settings.database_url)) as store:
        session = store.session(arguments["session"])
        store.set_machine(session.id, describe_machine())
        report(N_("getting ready"), None)
        if not make_answers(settings, store, session, report, report):
            raise LMDynoError(
                N_("Generating the answers was stopped."),
                hint=N_("The answers so far are kept. Resume to generate the rest."),
                code="stopped",
            )
        return {"missing": len(missing_answers(session.plan, store.answers(session.id)))}


def _judge(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    """Judge what this judge has not judged yet; each judgement is stored as it comes."""
    process_setup.configure_logs()
    settings = load_settings()
    judge = decode(LaneSpec, arguments["judge"])
    with closing(Sessions(settings.database_url)) as store:
        record = store.record(arguments["session"])
        tasks = judge_tasks(record.session, record.judgements, judge.name, int(arguments["most_items"]))

        def keep(place: int, answer: RequestRecord) -> None:
            store.save_judgements(record.session.id, [_judgement(judge.name, tasks[place], answer)])
            done = place + 1
            report(N_("{done} of {total} judgements", done=done, total=len(tasks)), done / len(tasks))

        part = LanePart(lane=judge, turns=_turns(record, tasks, judge), on_record=keep)
        if tasks and not ask_lanes(settings, [part], report):
            raise LMDynoError(
                N_("Judging was stopped."),
                hint=N_("The judgements so far are kept. For the rest, start it again."),
                code="stopped",
            )
    return {"judged": len(tasks)}


def _turns(record: SessionRecord, tasks: list[JudgeTask], judge: LaneSpec) -> tuple[TurnPlan, ...]:
    texts = usable_texts(record.answers)
    turns = []
    for task in tasks:
        item = record.session.items[task.item]
        shown = [texts[item.prompt, candidate] for candidate in item.candidates]
        turns.append(judge_turn(record.session, task, shown, judge))
    return tuple(turns)


def _judgement(judge: str, task: JudgeTask, answer: RequestRecord) -> Judgement:
    verdict, order = (None, ()) if answer.error else read_verdict(answer.text, task)
    return Judgement(
        judge=judge,
        item=task.item,
        turned=task.turned,
        verdict=verdict,
        order=order,
        text=answer.text,
        error=answer.error,
    )


def work(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    """Generate answers; with a judge among the arguments, have it judge them."""
    return _judge(arguments, report) if "judge" in arguments else _answer(arguments, report)


if __name__ == "__main__":
    sys.exit(run(work))
