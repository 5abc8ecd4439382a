"""Sweeps as background jobs; a sweep and its job have the same id."""

import json

from core.codec import encode
from core.i18n import N_, N_plural, Text
from core.jobs.records import JobSpec
from core.jobs.registry import Jobs
from core.memory_sweep.plan import SweepPlan
from core.settings import Settings

JOB_KIND = "memory-sweep"


def start_sweep(settings: Settings, plan: SweepPlan, *, node: str | None = None) -> str:
    """Start the sweep, here or on a node of the cluster, and return its job's id.

    Raises InputError if one waits or runs on that GPU already.
    """
    arguments = {"plan": json.loads(encode(plan))}
    device = f"gpu{plan.gpu}" if node is None else f"{node}-gpu{plan.gpu}"
    return Jobs(settings).start_module(
        JOB_KIND,
        "core.memory_sweep.worker" if node is None else "core.memory_sweep.node_worker",
        arguments if node is None else {**arguments, "node": node},
        title=sweep_title(plan, node),
        job_id=plan.id,
        device=device,
        already_running=N_("A memory sweep is already running on this GPU."),
        is_same=lambda spec: spec.device == device,
    )


def sweep_title(plan: SweepPlan, node: str | None = None) -> Text:
    if node is not None:
        return N_plural(
            "Memory sweep of {model} on node {node}, {n} point",
            "Memory sweep of {model} on node {node}, {n} points",
            len(plan.points),
            model=plan.model.name,
            node=node,
        )
    return N_plural(
        "Memory sweep of {model}, {n} point",
        "Memory sweep of {model}, {n} points",
        len(plan.points),
        model=plan.model.name,
    )


def sweep_id(spec: JobSpec) -> str:
    """The id under which the job's run is kept."""
    return str(spec.arguments["plan"]["id"])
