"""Sweeps as background jobs."""

import json
import sys
from typing import Any

from core.codec import encode
from core.errors import InputError
from core.i18n import N_, N_plural
from core.jobs.records import JobSpec
from core.jobs.registry import Jobs
from core.memory_sweep.plan import SweepPlan
from core.settings import Settings

JOB_KIND = "memory-sweep"


def start_sweep(settings: Settings, plan: SweepPlan) -> str:
    """Start the sweep and return its job's id. Raises InputError if one waits or runs on that GPU already."""
    device = f"gpu{plan.gpu}"
    for status in Jobs(settings).statuses(JOB_KIND):
        if not status.state.ended and status.spec.device == device:
            raise InputError(
                N_("A memory sweep is already running on this GPU."),
                hint=N_("Wait for it to finish, or cancel it."),
                code="already-running",
            )
    arguments: dict[str, Any] = {"plan": json.loads(encode(plan))}
    return Jobs(settings).start(
        JobSpec(
            kind=JOB_KIND,
            title=N_plural(
                "Memory sweep of {model}, {n} point",
                "Memory sweep of {model}, {n} points",
                len(plan.points),
                model=plan.model.name,
            ),
            worker="core.memory_sweep.worker",
            arguments=arguments,
            device=device,
            python=sys.executable,
            env={"LMDYNO_HOME": str(settings.home)},
        )
    )


def sweep_id(spec: JobSpec) -> str:
    """The id under which the job's run is kept."""
    return str(spec.arguments["plan"]["id"])
