"""Quality runs as background jobs; a run and its job have the same id."""

from core.codec import encode
from core.i18n import N_
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
    return Jobs(settings).start_module(
        JOB_KIND,
        "core.quality.worker",
        {"plan": encode(plan).decode()},
        title=plan.label,
        job_id=plan.id,
        already_running=N_("A comparison is already running."),
        has_run=True,
    )
