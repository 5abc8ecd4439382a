"""The worker of a quiz: `python -m core.image_quiz.worker FOLDER FD`, started by `core.jobs`."""

import sys
from collections.abc import Mapping
from typing import Any

from core import logs
from core.codec import decode
from core.errors import LMDynoError
from core.i18n import N_
from core.image_quiz.plan import QuizPlan
from core.image_quiz.results import QuizRun, keep, save
from core.image_quiz.runner import conduct
from core.jobs.worker import Report, run
from core.settings import load_settings


def work(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    """Ask everything; the run is saved after each question, the result names it."""
    logs.configure()
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


if __name__ == "__main__":
    sys.exit(run(work))
