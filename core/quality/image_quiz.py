"""A quiz about images: its plan, how it is asked, the run as it is kept, and its background job.

The plan has questions about images of the gallery or uploaded files, of the same lanes and with the same
settings. They are asked one after another, each of all lanes, through the meter's own code. One lane's
failure is that lane's result. A run has every request's record; verdicts, accuracy and latency of each lane
are derived from them. It is a JSON file under `home/quizzes/`, written anew after every question, so that a
quiz that was stopped keeps what it had; when it ends, it goes into the history. An answer counts as right by
the rule `contains` of `core.quality.tasks`.

A quiz and its job have the same id. `python -m core.quality.image_quiz FOLDER FD` is the worker, started by
`core.jobs`: the quiz's own process, so that drawing does not slow its clock.
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import partial
from itertools import zip_longest
from pathlib import Path
from statistics import median
from typing import Any

from core import process_setup
from core.bench.statistics import Interval, wilson
from core.cluster.control import Engines
from core.codec import decode, encode
from core.domain.conversation import Sampling, StoredImage, messages_for, named_images
from core.domain.runs import RunKind
from core.domain.specs import LaneSpec
from core.domain.turns import (
    FinishReason,
    Machine,
    Mode,
    RequestPlan,
    RequestRecord,
    TurnPlan,
    new_id,
    utc_now,
)
from core.engines.registry import lease
from core.engines.requests import StoppedRequests
from core.engines.resolve import find_endpoint
from core.errors import InputError, LMDynoError
from core.i18n import N_, Text
from core.images.gallery import GalleryImage, GalleryKind, gallery
from core.images.sanitise import sanitise
from core.images.store import ImageStore
from core.jobs.registry import Jobs, load_outcome, outcome_file, save_outcome
from core.jobs.worker import Report, run
from core.meter.devices import DeviceQueue
from core.meter.turns import run_turn, unless_stopped
from core.models.context import require_sendable
from core.quality.tasks import holds_any
from core.settings import Settings, load_settings
from core.store.run_tables import keep_run
from core.telemetry.nvml import describe_machine

MOST_QUESTIONS = 500
UPLOAD_EXAMPLE = '{"image": "kitchen.jpg", "question": "How many cups are there?", "answers": ["3"]}'
JOB_KIND = "image-quiz"

log = logging.getLogger(__name__)

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuizQuestion:
    """One question about one image."""

    image: StoredImage
    question: str
    answers: tuple[str, ...] = ()
    """Any of these is right; without any the answers are collected, not graded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuizPlan:
    """Questions and lanes. Raises InputError for what can't be asked."""

    title: Text
    lanes: tuple[LaneSpec, ...]
    questions: tuple[QuizQuestion, ...]
    sampling: Sampling
    mode: Mode = Mode.ONE_AFTER_ANOTHER
    """Of the lanes for each question; the questions always follow one another."""
    system_prompt: str = ""
    id: str = field(default_factory=new_id)

    def __post_init__(self) -> None:
        if not self.lanes:
            raise InputError(N_("No lane is selected."), hint=N_("Select lanes in the sidebar."))
        if not 1 <= len(self.questions) <= MOST_QUESTIONS:
            raise InputError(
                N_("There are no questions.")
                if not self.questions
                else N_("Too many questions ({n}).", n=len(self.questions)),
                hint=N_(
                    "Choose images and enter a question, or choose a question set. A quiz can have at "
                    "most {most} "
                    "questions.",
                    most=MOST_QUESTIONS,
                ),
            )
        if any(not question.question.strip() for question in self.questions):
            raise InputError(N_("A question is empty."), hint=N_("Enter a question."))

    def check_sendable(self) -> None:
        """Raise InputError for a lane that can't be sent one of the images, by its model's files of today.

        So it comes before a start, and is no part of a plan: what was asked then has to stay readable.
        """
        for lane in self.lanes:
            for question in self.questions:
                require_sendable(lane, messages_for(question.question, images=(question.image,)))

    def turn(self, place: int) -> TurnPlan:
        """The question at `place` as a turn of its own: no lane sees another question or its answer."""
        asked = self.questions[place]
        images = (asked.image,)
        messages = messages_for(asked.question, system=self.system_prompt, images=images)
        return TurnPlan(
            conversation_id=self.id,
            prompt=asked.question,
            system_prompt=self.system_prompt,
            mode=self.mode,
            sampling=self.sampling,
            images=images,
            requests=tuple(RequestPlan(lane=lane, messages=messages) for lane in self.lanes),
        )


def one_question(
    question: str, images: Iterable[StoredImage], answers: Sequence[str] = ()
) -> tuple[QuizQuestion, ...]:
    """The same question about each of several images."""
    expected = tuple(answer.strip() for answer in answers if answer.strip())
    return tuple(QuizQuestion(image=image, question=question, answers=expected) for image in images)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """One line of an uploaded set."""

    image: str
    question: str
    answers: tuple[str, ...] = ()


def gallery_questions(image_store: ImageStore, kind: GalleryKind) -> tuple[QuizQuestion, ...]:
    """All questions about the gallery's images of a kind.

    The first of each image, then the second of each: a start of the set goes through all images too.
    """
    images = [image for image in gallery() if image.kind is kind]
    by_image = [_questions(put(image_store, image), image) for image in images]
    rounds = zip_longest(*by_image)
    return tuple(question for asked in rounds for question in asked if question is not None)


def put(image_store: ImageStore, image: GalleryImage) -> StoredImage:
    """The gallery's image as one that can be sent."""
    return image_store.put(sanitise(image.path.read_bytes(), name=image.path.name))


def uploaded_questions(image_store: ImageStore, files: Mapping[str, bytes]) -> tuple[QuizQuestion, ...]:
    """The questions of a JSONL file about the images that came with it, all by their file names.

    A line is `{"image": …, "question": …, "answers": […]}`; the answers may be left out. Raises InputError
    for the first thing that is wrong.
    """
    lists = [name for name in files if name.lower().endswith(".jsonl")]
    if len(lists) != 1:
        raise InputError(
            N_("The upload has {n} JSONL files, but needs exactly one.", n=len(lists)),
            hint=N_(
                "Upload one JSONL file with the images that it names. An example line: {example}",
                example=UPLOAD_EXAMPLE,
            ),
        )
    text = files[lists[0]].decode("utf-8", "replace")
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    questions = [(number, _read(lists[0], number, line)) for number, line in lines]
    taken: dict[str, StoredImage] = {}
    for number, line in questions:
        if line.image not in files:
            raise InputError(
                N_(
                    '{file}, line {line}: image "{image}" is missing.',
                    file=lists[0],
                    line=number,
                    image=line.image,
                ),
                hint=N_("Upload the image together with the list, under that name."),
            )
        if line.image not in taken:
            taken[line.image] = image_store.put(sanitise(files[line.image], name=line.image))
    return tuple(
        QuizQuestion(image=taken[line.image], question=line.question, answers=line.answers)
        for _, line in questions
    )


def _questions(image: StoredImage, gallery_image: GalleryImage) -> list[QuizQuestion]:
    return [
        QuizQuestion(image=image, question=asked.question, answers=asked.answers)
        for asked in gallery_image.questions
    ]


def _read(name: str, number: int, line: str) -> _Line:
    try:
        return decode(_Line, line)
    except InputError as error:
        raise InputError(
            N_(
                "{file}, line {line}: {problem}",
                file=name,
                line=number,
                problem=error.message.removeprefix("_Line: "),
            ),
            hint=N_("An example line: {example}", example=UPLOAD_EXAMPLE),
        ) from error


class Verdict(StrEnum):
    RIGHT = "right"
    WRONG = "wrong"
    NO_ANSWER = "no-answer"
    """The lane failed, or was stopped."""
    NOT_GRADED = "not-graded"
    """Nobody said what would be right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuizAnswer:
    """One question with what each lane did, in the plan's order of lanes."""

    question: int
    """Its place in the plan."""
    records: tuple[RequestRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuizRun:
    """A quiz with the questions answered so far."""

    plan: QuizPlan
    machine: Machine | None = None
    created_at: datetime = field(default_factory=utc_now)
    answers: tuple[QuizAnswer, ...] = ()
    schema_version: int = 1

    @property
    def graded(self) -> bool:
        """Whether it is known of any question what would be right."""
        return any(question.answers for question in self.plan.questions)


def verdict(record: RequestRecord, question: QuizQuestion) -> Verdict:
    if record.finish_reason not in (FinishReason.STOP, FinishReason.LENGTH, None) or record.error:
        return Verdict.NO_ANSWER
    if not question.answers:
        return Verdict.NOT_GRADED
    return Verdict.RIGHT if holds_any(record.text, question.answers) else Verdict.WRONG


def save(settings: Settings, run: QuizRun) -> None:
    """Write the run, in place of an earlier state of it, whole or not at all."""
    save_outcome(run_file(settings, run.plan.id), run)


def keep(settings: Settings, run: QuizRun) -> None:
    """Put a run that ended into the history; one without any answer leaves nothing. Raises StoreError."""
    if not run.answers:
        return
    keep_run(
        settings.database_url,
        run,
        kind=RunKind.QUIZ,
        run_id=run.plan.id,
        created_at=run.created_at,
        is_whole=len(run.answers) == len(run.plan.questions),
        title=run.plan.title,
        lanes=run.plan.lanes,
        machine=run.machine,
    )


def load(settings: Settings, quiz_id: str) -> QuizRun | None:
    """The run so far; None before its first answer. Raises InputError (`bad-record`)."""
    return load_outcome(QuizRun, run_file(settings, quiz_id))


def run_file(settings: Settings, quiz_id: str) -> Path:
    return outcome_file(settings.home / "quizzes", quiz_id, "quiz")


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneScore:
    """One lane's counts and times in a quiz."""

    lane: str
    right: int
    wrong: int
    no_answer: int
    """Failed or stopped requests; they count neither as right nor as wrong."""
    not_graded: int
    ttft_p50_s: float | None
    e2e_p50_s: float | None
    timed: int
    """Answers behind the two medians."""

    @property
    def graded(self) -> int:
        return self.right + self.wrong

    @property
    def accuracy_ratio(self) -> float | None:
        return self.right / self.graded if self.graded else None

    @property
    def interval(self) -> Interval | None:
        return wilson(self.right, self.graded)


def scores(run: QuizRun) -> tuple[LaneScore, ...]:
    """One score a lane, in the plan's order."""
    return tuple(_score(run, place) for place in range(len(run.plan.lanes)))


def _score(run: QuizRun, place: int) -> LaneScore:
    records = [answer.records[place] for answer in run.answers]
    verdicts = [
        verdict(record, run.plan.questions[answer.question])
        for record, answer in zip(records, run.answers, strict=True)
    ]
    timed = [
        record
        for record, how in zip(records, verdicts, strict=True)
        if how is not Verdict.NO_ANSWER and record.ttft_s is not None
    ]
    return LaneScore(
        lane=run.plan.lanes[place].name,
        right=verdicts.count(Verdict.RIGHT),
        wrong=verdicts.count(Verdict.WRONG),
        no_answer=verdicts.count(Verdict.NO_ANSWER),
        not_graded=verdicts.count(Verdict.NOT_GRADED),
        ttft_p50_s=_median([record.ttft_s for record in timed]),
        e2e_p50_s=_median([record.e2e_s for record in timed]),
        timed=len(timed),
    )


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def start_quiz(settings: Settings, plan: QuizPlan) -> str:
    """Start the quiz in a process of its own and return its id.

    Raises InputError while another one runs, and for a lane that can't be sent one of the images.
    """
    plan.check_sendable()
    return Jobs(settings).start_module(
        JOB_KIND,
        "core.quality.image_quiz",
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
    stop = process_setup.stop_on_signals()
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
