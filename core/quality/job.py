"""Quality runs as background jobs; a run and its job have the same id."""

import sys

from core.codec import encode
from core.errors import InputError
from core.i18n import N_
from core.jobs.records import JobSpec
from core.jobs.registry import Jobs
from core.quality.plan import QualityPlan
from core.quality.run.lm_eval import require_installed
from core.settings import Settings

JOB_KIND = "quality"


def start_quality(settings: Settings, plan: QualityPlan) -> str:
    """Start the run in a process of its own and return its id.

    Raises InputError while another one runs, and EngineNotInstalled for tasks of a missing program.
    """
    if plan.external_tasks:
        require_installed()
    if any(not status.state.ended for status in Jobs(settings).statuses(JOB_KIND)):
        raise InputError(
            N_("A comparison is already running."),
            hint=N_("Wait for it to finish, or stop it."),
            code="already-running",
        )
    return Jobs(settings).start(
        JobSpec(
            id=plan.id,
            kind=JOB_KIND,
            title=plan.label,
            worker="core.quality.worker",
            arguments={"plan": encode(plan).decode()},
            python=sys.executable,
            env={"LMDYNO_HOME": str(settings.home)},
        )
    )
