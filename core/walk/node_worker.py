"""The worker of a walk on a node: `python -m core.walk.node_worker FOLDER FD`."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from core.cluster.jobs import end_when_told, follow
from core.cluster.protocol import NodeJob
from core.codec import decode
from core.domain.runs import RunState
from core.domain.walk import WalkRun, walk_title
from core.jobs.registry import JobSpec
from core.jobs.worker import Report, run
from core.settings import load_settings
from core.walk.job import JOB_KIND, keep, load, run_file, save, walk_settings


def work(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    """Have the node take the walk; it is saved here after each step, and in the history when it ends."""
    settings, node, walk_id = load_settings(), arguments["node"], arguments["id"]
    spec = JobSpec(
        kind=JOB_KIND,
        title=walk_title(arguments["model"], node),
        worker="core.walk.job",
        arguments=dict(arguments),
        python=sys.executable,
    )
    outcome = run_file(walk_settings(settings), walk_id).relative_to(settings.home)
    try:
        return follow(
            settings,
            node,
            NodeJob(spec=spec, outcome=str(outcome)),
            report,
            lambda content: save(settings, decode(WalkRun, content)),
        )
    finally:
        if (taken := load(settings, walk_id)) is not None:
            # The node tells nothing more of a walk that is cancelled here.
            stopped = replace(taken, state=RunState.STOPPED)
            keep(settings, stopped if taken.state is RunState.RUNNING else taken)


if __name__ == "__main__":
    end_when_told()
    sys.exit(run(work))
