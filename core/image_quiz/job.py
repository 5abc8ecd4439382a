"""Quizzes as background jobs; a quiz and its job have the same id.

`python -m core.image_quiz.job FOLDER FD` is the worker, started by `core.jobs`. It asks the quiz's questions,
one after another, each of all lanes, through the meter's own code. It is the quiz's own process, so that
drawing does not slow its clock. One lane's failure is that lane's result.
"""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

from core import process_setup
from core.cluster.control import Engines
from core.codec import decode, encode
from core.domain.conversation import named_images
from core.domain.turns import FinishReason, RequestRecord
from core.engines.registry import lease
from core.engines.requests import StoppedRequests
from core.engines.resolve import find_endpoint
from core.errors import LMDynoError
from core.i18n import N_
from core.image_quiz.quiz import QuizAnswer, QuizPlan, QuizRun, keep, save
from core.images.store import ImageStore
from core.jobs.registry import Jobs
from core.jobs.worker import Report, run
from core.meter.devices import DeviceQueue
from core.meter.turns import run_turn, unless_stopped
from core.settings import Settings, load_settings
from core.telemetry.nvml import describe_machine

JOB_KIND = "image-quiz"

log = logging.getLogger(__name__)

Tell = Callable[[str], None]


def start_quiz(settings: Settings, plan: QuizPlan) -> str:
    """Start the quiz in a process of its own and return its id.

    Raises InputError while another one runs, and for a lane that can't be sent one of the images.
    """
    plan.check_sendable()
    return Jobs(settings).start_module(
        JOB_KIND,
        "core.image_quiz.job",
        {"plan": encode(plan).decode()},
        title=plan.title,
        job_id=plan.id,
        already_running=N_("A quiz is already running."),
    )


def images_of_jobs(settings: Settings) -> frozenset[str]:
    """The hashes of all images that jobs need: of every quiz, and of whatever goes on or waits."""
    return named_images(
        encode(status.spec.arguments).decode()
        for status in Jobs(settings).statuses()
        if status.spec.kind == JOB_KIND or not status.state.ended
    )


def work(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    """Ask everything; the run is saved after each question, the result names it."""
    process_setup.configure_logs()
    settings = load_settings()
    plan = decode(QuizPlan, arguments["plan"])
    total = len(plan.questions)

    def on_answer(so_far: QuizRun) -> None:
        save(settings, so_far)
        done = len(so_far.answers)
        report(N_("{done} of {total} questions answered", done=done, total=total), done / total)

    report(N_("Starting the engines"), 0.0)
    finished = conduct(settings, plan, on_answer, lambda stage: report(stage, 0.0))
    keep(settings, finished)
    if len(finished.answers) < total:
        raise LMDynoError(
            N_("The quiz was stopped."), hint=N_("The answers so far are kept."), code="stopped"
        )
    return {"quiz": plan.id}


def conduct(settings: Settings, plan: QuizPlan, on_answer: Callable[[QuizRun], None], tell: Tell) -> QuizRun:
    """Ask all questions and return the run; `on_answer` gets it after each one, `tell` gets the current step.

    Main thread only: SIGTERM and SIGINT end it with the questions that were answered by then.
    """
    return asyncio.run(_conduct(settings, plan, on_answer, tell))


async def _conduct(
    settings: Settings, plan: QuizPlan, on_answer: Callable[[QuizRun], None], tell: Tell
) -> QuizRun:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    run = QuizRun(plan=plan, machine=describe_machine())
    with closing(Engines(settings, plan.lanes)) as engines:
        await unless_stopped(stop, _bring_up(engines, plan, tell))
        tell(N_("Asking the first question"))
        devices = DeviceQueue(settings.locks_dir)
        stopped = StoppedRequests(settings)
        for place in range(len(plan.questions)):
            if stop.is_set():
                break
            records = await run_turn(
                plan.turn(place),
                resolve=partial(find_endpoint, settings),
                lease=partial(lease, settings),
                image_url=ImageStore(settings.images_dir).data_url,
                devices=devices,
                stopped=stopped,
                on_update=lambda _: None,
                cancel=stop,
            )
            if any(_was_cut_short(record) for record in records):
                break
            run = replace(run, answers=(*run.answers, QuizAnswer(question=place, records=records)))
            on_answer(run)
    return run


async def _bring_up(engines: Engines, plan: QuizPlan, tell: Tell) -> None:
    """Start what does not run; a lane whose engine can't start gets that as each answer's error."""
    for lane in plan.lanes:
        try:
            await engines.ready(lane, tell)
        except LMDynoError as error:
            log.warning("engine not ready lane=%s code=%s", lane.name, error.code)


def _was_cut_short(record: RequestRecord) -> bool:
    return record.finish_reason is FinishReason.CANCELLED


if __name__ == "__main__":
    sys.exit(run(work))
