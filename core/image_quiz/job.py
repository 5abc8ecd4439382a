"""Quizzes as background jobs; a quiz and its job have the same id."""

from core.codec import encode
from core.domain.conversation import named_images
from core.i18n import N_
from core.image_quiz.plan import QuizPlan
from core.jobs.registry import Jobs
from core.settings import Settings

JOB_KIND = "image-quiz"


def start_quiz(settings: Settings, plan: QuizPlan) -> str:
    """Start the quiz in a process of its own and return its id.

    Raises InputError while another one runs, and for a lane that can't be sent one of the images.
    """
    plan.check_sendable()
    return Jobs(settings).start_module(
        JOB_KIND,
        "core.image_quiz.worker",
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
