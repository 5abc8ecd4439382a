"""Sweeps as background jobs, here or on a node of the cluster; a sweep and its job have the same id.

`python -m core.memory_sweep.job FOLDER FD` is the worker, started by `core.jobs`: it measures the plan, or
has a node measure it and keeps what that reports.
"""

import json
import signal
import sys
from collections.abc import Mapping
from typing import Any

from core.cluster.jobs import follow
from core.cluster.protocol import NodeJob
from core.codec import decode, encode
from core.i18n import N_, N_plural, Text
from core.jobs.registry import Jobs, JobSpec
from core.jobs.worker import Report, run
from core.memory_sweep.sweep import SweepPlan, SweepRun, keep, load, run_file, save
from core.settings import Settings, load_settings
from core.telemetry.nvml import Nvml

JOB_KIND = "memory-sweep"


def start_sweep(settings: Settings, plan: SweepPlan, *, node: str | None = None) -> str:
    """Start the sweep, here or on a node of the cluster, and return its job's id.

    Raises InputError if one waits or runs on that GPU already.
    """
    arguments = {"plan": json.loads(encode(plan))}
    device = f"gpu{plan.gpu}" if node is None else f"{node}-gpu{plan.gpu}"
    return Jobs(settings).start_module(
        JOB_KIND,
        "core.memory_sweep.job",
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


def _measure(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    """Measure the plan; the run is saved after each point, the result names it."""
    # It brings engines and the meter's code, which the command line needs for no other purpose.
    from core.memory_sweep.runner import Sweeper

    settings = load_settings()
    plan = decode(SweepPlan, json.dumps(arguments["plan"]))

    def on_point(so_far: SweepRun) -> None:
        save(settings, so_far)
        tell(len(so_far.points))

    def tell(done: int) -> None:
        total = len(plan.points)
        if done < total:
            stage = N_(
                "{done} of {total} measured, current: {point}",
                done=done,
                total=total,
                point=plan.points[done].label,
            )
        else:
            stage = N_("Done")
        report(stage, done / total)

    tell(0)
    try:
        finished = Sweeper(settings, plan, nvml=Nvml()).run(on_point)
    finally:
        if (measured := load(settings, plan.id)) is not None:
            keep(settings, measured, sweep_title(plan))
    return {"sweep": plan.id, "failed": sum(point.error is not None for point in finished.points)}


def _measure_on_node(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    """Have the node measure the plan; the run is saved here after each point."""
    settings = load_settings()
    plan = decode(SweepPlan, json.dumps(arguments["plan"]))
    spec = JobSpec(
        kind=JOB_KIND,
        title=sweep_title(plan),
        worker="core.memory_sweep.job",
        arguments={"plan": json.loads(encode(plan))},
        device=f"gpu{plan.gpu}",
        python=sys.executable,
    )
    outcome = str(run_file(settings, plan.id).relative_to(settings.home))
    try:
        return follow(
            settings,
            arguments["node"],
            NodeJob(spec=spec, outcome=outcome),
            report,
            lambda content: save(settings, decode(SweepRun, content)),
        )
    finally:
        if (measured := load(settings, plan.id)) is not None:
            keep(settings, measured, sweep_title(plan, arguments["node"]))


def work(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    """Measure here, or on the node among the arguments."""
    return _measure_on_node(arguments, report) if "node" in arguments else _measure(arguments, report)


def main() -> int:
    # Ends the engine, or the job on the node, on the way out; by default the signal ends the process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    return run(work)


if __name__ == "__main__":
    sys.exit(main())
