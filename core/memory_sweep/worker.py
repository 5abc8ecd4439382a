"""The worker of a memory sweep: `python -m core.memory_sweep.worker FOLDER FD`, started by `core.jobs`."""

import json
import signal
import sys
from collections.abc import Mapping
from typing import Any

from core.codec import decode
from core.i18n import N_
from core.jobs.worker import Report, run
from core.memory_sweep.job import sweep_title
from core.memory_sweep.plan import SweepPlan
from core.memory_sweep.results import SweepRun, keep, load, save
from core.memory_sweep.runner import Sweeper
from core.settings import load_settings
from core.telemetry.nvml import Nvml


def work(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    """Measure the plan; the run is saved after each point, the result names it."""
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


def main() -> int:
    # Ends the engine on the way out; by default the signal would end this process on the spot.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    return run(work)


if __name__ == "__main__":
    sys.exit(main())
