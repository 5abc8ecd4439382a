"""The worker of a memory sweep on a node: `python -m core.memory_sweep.node_worker FOLDER FD`."""

import json
import sys
from collections.abc import Mapping
from typing import Any

from core.cluster.jobs import end_when_told, follow
from core.cluster.protocol import NodeJob
from core.codec import decode, encode
from core.jobs.records import JobSpec
from core.jobs.worker import Report, run
from core.memory_sweep.job import JOB_KIND, sweep_title
from core.memory_sweep.plan import SweepPlan
from core.memory_sweep.results import SweepRun, keep, load, run_file, save
from core.settings import load_settings


def work(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    """Have the node measure the plan; the run is saved here after each point."""
    settings = load_settings()
    plan = decode(SweepPlan, json.dumps(arguments["plan"]))
    spec = JobSpec(
        kind=JOB_KIND,
        title=sweep_title(plan),
        worker="core.memory_sweep.worker",
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


if __name__ == "__main__":
    end_when_told()
    sys.exit(run(work))
