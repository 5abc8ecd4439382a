"""Find the background job that makes a model's files right now."""

from pathlib import Path

from core.config import DEMO_NAME, VISION_DEMO_NAME
from core.config.lanes import awq_dir
from core.domain.specs import LaneSpec
from core.jobs.records import JobStatus
from core.jobs.registry import Jobs
from core.models.awq.job import JOB_KIND as QUANTISING
from core.models.demo.job import JOB_KIND as PREPARING_DEMOS
from core.settings import Settings


def job_that_makes(settings: Settings, path: Path) -> JobStatus | None:
    """The newest job that makes the folder or file at `path`, running or ended; None if there is none.

    What a node makes lies on the node, so those jobs don't count.
    """
    for status in Jobs(settings).statuses():
        arguments = status.spec.arguments
        is_here = "node" not in arguments and arguments.get("target") == str(path)
        if status.spec.kind == QUANTISING and is_here:
            return status
        if status.spec.kind == PREPARING_DEMOS and any(
            path == folder or folder in path.parents for folder in _demo_folders(settings)
        ):
            return status
    return None


def is_being_made(settings: Settings, lane: LaneSpec) -> bool:
    """Whether a job is at work on the lane's weights."""
    path = lane.model.path(lane.weights) if lane.model else None
    job = job_that_makes(settings, Path(path)) if path else None
    return job is not None and not job.state.ended


def _demo_folders(settings: Settings) -> tuple[Path, ...]:
    """The AWQ form too: the job that prepares the demo models starts the one that makes it."""
    names = (settings.models_dir / name for name in (DEMO_NAME, VISION_DEMO_NAME))
    return (*names, awq_dir(settings, DEMO_NAME))
