"""A quiz as it is kept: every request's record; verdicts and scores are derived from them.

A run is a JSON file under `home/quizzes/`, written anew after every question, so that a quiz that was stopped
keeps what it had.
"""

import os
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from core.codec import decode, encode
from core.domain.runs import FinishReason, Machine, RequestRecord, utc_now
from core.errors import InputError
from core.picture_quiz.grading import Verdict, is_right
from core.picture_quiz.plan import QuizPlan, QuizQuestion
from core.settings import Settings


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
    return Verdict.RIGHT if is_right(record.text, question.answers) else Verdict.WRONG


def save(settings: Settings, run: QuizRun) -> Path:
    """Write the run, in place of an earlier state of it, whole or not at all."""
    path = run_file(settings, run.plan.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}")
    draft.write_bytes(encode(run))
    draft.replace(path)
    return path


def load(settings: Settings, quiz_id: str) -> QuizRun | None:
    """The run so far; None before its first answer. Raises InputError (`bad-record`)."""
    try:
        return decode(QuizRun, run_file(settings, quiz_id).read_bytes())
    except FileNotFoundError:
        return None


def run_file(settings: Settings, quiz_id: str) -> Path:
    if not quiz_id.isalnum():
        raise InputError(f"There is no quiz {quiz_id}", code="no-such-quiz")
    return settings.home / "quizzes" / f"{quiz_id}.json"
