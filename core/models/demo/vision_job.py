"""Preparing the demo vision model as a background job: `start` it, or be its worker."""

import sys
from collections.abc import Mapping
from typing import Any

from core.errors import InputError
from core.i18n import N_
from core.jobs.records import JobSpec
from core.jobs.registry import Jobs
from core.jobs.worker import Report, run
from core.models.demo import vision as demo_vision
from core.settings import Settings, load_settings

JOB_KIND = "demo-vision"


def start(settings: Settings) -> str:
    """Start it in a process of its own and return the job's id. Raises InputError if it goes on already."""
    if any(not status.state.ended for status in Jobs(settings).statuses(JOB_KIND)):
        raise InputError(N_("The demo vision model is already being prepared."), code="already-running")
    return Jobs(settings).start(
        JobSpec(
            kind=JOB_KIND,
            title=N_("Demo vision model"),
            worker="core.models.demo.vision_job",
            arguments={},
            python=sys.executable,
            env={"LMDYNO_HOME": str(settings.home)},
        )
    )


def work(_arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    model = demo_vision.prepare(load_settings(), report)
    return {"model": model.name}


if __name__ == "__main__":
    sys.exit(run(work))
