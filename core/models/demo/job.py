"""Preparing the demo models as a background job: `start` it, or be its worker."""

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from core.config import DEMO_NAME, VISION_DEMO_NAME
from core.domain.specs import LaneSpec
from core.i18n import N_
from core.jobs.registry import Jobs
from core.jobs.worker import Report, run
from core.models.awq.job import prepare_demo_awq
from core.models.demo import text as demo_text
from core.models.demo import vision as demo_vision
from core.settings import Settings, load_settings
from core.telemetry.nvml import Nvml

JOB_KIND = "demo"


def start(settings: Settings) -> str:
    """Start it in a process of its own and return the job's id. Raises InputError if it goes on already."""
    return Jobs(settings).start_module(
        JOB_KIND,
        "core.models.demo.job",
        {},
        title=N_("Demo models"),
        already_running=N_("The demo models are already being prepared."),
    )


def is_wanted(settings: Settings, lanes: Iterable[LaneSpec]) -> bool:
    """Whether one of the lanes has a demo model that isn't there yet."""
    checkpoints = {lane.model.checkpoint for lane in lanes if lane.model is not None}
    text, vision = (str(settings.models_dir / name) for name in (DEMO_NAME, VISION_DEMO_NAME))
    return (text in checkpoints and not demo_text.is_prepared(settings)) or (
        vision in checkpoints and not demo_vision.is_prepared(settings)
    )


def work(_arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    """Prepare both; on a GPU, start another job that quantises the text model."""
    settings = load_settings()
    prepared = [demo_text.prepare(settings, report).name]
    # Started before this job ends: an engine that waits for its weights always sees somebody make them.
    quantising = prepare_demo_awq(settings) if Nvml().devices() else None
    prepared.append(demo_vision.prepare(settings, report).name)
    return {"models": prepared, "quantising": quantising}


if __name__ == "__main__":
    sys.exit(run(work))
