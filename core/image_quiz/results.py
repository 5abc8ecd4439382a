"""A quiz as it is kept: every request's record; verdicts, accuracy and latency of each lane are derived from
them.

A run is a JSON file under `home/quizzes/`, written anew after every question, so that a quiz that was stopped
keeps what it had; when it ends, it goes into the history. An answer counts as right by the rule `contains` of
`core.quality.tasks.graders`.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from statistics import median

from core.bench.statistics import Interval, wilson
from core.domain.history import RunKind
from core.domain.turns import FinishReason, Machine, RequestRecord, utc_now
from core.image_quiz.plan import QuizPlan, QuizQuestion
from core.jobs.records import load_outcome, outcome_file, save_outcome
from core.quality.tasks.task import holds_any
from core.settings import Settings
from core.store.run_tables import keep_run


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
