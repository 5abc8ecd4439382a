"""Load tests as background jobs: start, look at, stop. A run and its job have the same id."""

import logging
import re
from urllib.parse import urlsplit

from core.bench.plan import BenchPlan
from core.bench.workload import check_sendable, listed_prompts
from core.codec import decode, encode
from core.domain.specs import EngineKind, LaneSpec
from core.errors import InputError
from core.jobs.registry import Jobs, JobStatus
from core.settings import Settings

log = logging.getLogger(__name__)

JOB_KIND = "bench"


def start_bench(settings: Settings, plan: BenchPlan, *, gpu: bool) -> str:
    """Start the run of a plan in a process of its own and return its id.

    It waits while another job keeps its device busy. `gpu`: an NVIDIA GPU is here. Raises InputError for a
    prompt file that can't be used and for a lane that can't be sent the plan's images, LMDynoError if the
    process can't be started.
    """
    listed_prompts(plan.workload)
    check_sendable(plan)
    return Jobs(settings).start_module(
        JOB_KIND,
        "core.bench.run.process",
        {"plan": encode(plan).decode()},
        title=plan.label,
        job_id=plan.id,
        device=_device(plan.lanes[0], gpu=gpu),
        has_run=True,
    )


def bench_status(settings: Settings, run_id: str) -> JobStatus:
    """Return where the job of a run stands; raises InputError (`no-such-job`)."""
    return Jobs(settings).status(run_id)


def running_benches(settings: Settings) -> tuple[JobStatus, ...]:
    """The runs that go on or wait for their device, newest first."""
    return tuple(status for status in Jobs(settings).statuses(JOB_KIND) if not status.state.ended)


def last_plan(settings: Settings) -> BenchPlan | None:
    """The plan of the run that was started last; None before the first, or if it can't be read any more."""
    status = next(iter(Jobs(settings).statuses(JOB_KIND)), None)
    if status is None:
        return None
    try:
        return decode(BenchPlan, status.spec.arguments["plan"])
    except (InputError, KeyError) as exc:
        log.info("last plan not read id=%s reason=%s", status.id, exc)
        return None


def stop_bench(settings: Settings, run_id: str) -> None:
    """Ask a run to stop and keep what it has; returns at once."""
    Jobs(settings).cancel(run_id)


def _device(lane: LaneSpec, *, gpu: bool) -> str:
    """Return what a run keeps busy, as jobs name it. The meter's own locks settle what this name
    leaves open.
    """
    if lane.endpoint is not None:
        parts = urlsplit(lane.endpoint.url)
        return re.sub(r"[^A-Za-z0-9.-]", "-", f"{parts.hostname}-{parts.port or parts.scheme}")
    if not gpu or (lane.kind is EngineKind.TRANSFORMERS and lane.settings.device == "cpu"):
        return "cpu"
    return f"gpu{lane.settings.devices[0] if lane.settings.devices else 0}"
