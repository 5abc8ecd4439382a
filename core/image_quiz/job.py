"""Quizzes as background jobs; a quiz and its job have the same id."""

import sys

from core.codec import encode
from core.domain.images import named_images
from core.errors import InputError
from core.i18n import N_
from core.image_quiz.plan import QuizPlan
from core.jobs.records import JobSpec
from core.jobs.registry import Jobs
from core.settings import Settings

JOB_KIND = "image-quiz"


def start_quiz(settings: Settings, plan: QuizPlan) -> str:
    """Start the quiz in a process of its own and return its id.

    Raises InputError while another one runs, and for a lane that can't be sent one of the images.
    """
    plan.check_sendable()
    if any(not status.state.ended for status in Jobs(settings).statuses(JOB_KIND)):
        raise InputError(
            N_("A quiz is already running."),
            hint=N_("Wait for it to finish, or stop it."),
            code="already-running",
        )
    return Jobs(settings).start(
        JobSpec(
            id=plan.id,
            kind=JOB_KIND,
            title=plan.title,
            worker="core.image_quiz.worker",
            arguments={"plan": encode(plan).decode()},
            python=sys.executable,
            env={"LMDYNO_HOME": str(settings.home)},
        )
    )


def images_of_jobs(settings: Settings) -> frozenset[str]:
    """The hashes of all images that jobs need: of every quiz, and of whatever goes on or waits."""
    return named_images(
        encode(status.spec.arguments).decode()
        for status in Jobs(settings).statuses()
        if status.spec.kind == JOB_KIND or not status.state.ended
    )
