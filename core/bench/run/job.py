"""A load test from a plan to its record in the store: as a whole in this process, and as a background job.

`conduct` belongs into a process that does nothing else: the command line, or a job that `core.jobs` starts
with `python -m core.bench.run.job`. SIGTERM and SIGINT stop the run and keep what was measured by then: it is
in the store, whatever becomes of the job. A run and its job have the same id.
"""

import asyncio
import logging
import re
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from core import process_setup
from core.bench.plan import BenchPlan, SendFrom
from core.bench.run.load_process import switch_threads_quickly
from core.bench.run.recording import BenchStore, NoTelemetry, PassTelemetry, Recorder
from core.bench.run.runner import Runner, new_run
from core.bench.run.split_load import Senders, cores_here, processes_for
from core.bench.workload import RequestImages, check_sendable, listed_prompts
from core.chat_api.client import Timeouts, open_session
from core.cluster.control import Engines
from core.codec import decode, encode
from core.config import load_cluster
from core.domain.runs import BenchRun, ProgressCallback, job_result
from core.domain.specs import EngineKind, LaneSpec
from core.engines.requests import StoppedRequests
from core.errors import InputError
from core.i18n import N_
from core.images.store import ImageStore
from core.jobs.registry import Jobs, JobStatus
from core.jobs.worker import Report, run
from core.meter.devices import DeviceQueue
from core.process_setup import allow_many_open_files
from core.settings import Settings, load_settings
from core.telemetry.nvml import describe_machine

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
        "core.bench.run.job",
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


def conduct(settings: Settings, plan: BenchPlan, report: ProgressCallback) -> BenchRun:
    """Run a plan to its end and return its run, in its final state and stored. Main thread only.

    Raises LMDynoError if it can't be run at all, or not be stored: InputError for a lane that can't be
    sent the plan's images, StoreError for an image that is no longer here.
    """
    check_sendable(plan)
    images = RequestImages(plan, ImageStore(settings.images_dir).read) if plan.workload.images else None
    switch_threads_quickly()
    allow_many_open_files()
    if plan.send_from is not SendFrom.NODES:  # that begins with one for each machine
        plan = replace(plan, workers=plan.workers or processes_for(plan, cores_here()))

    def open_store() -> BenchStore:
        # SQLAlchemy takes its time; the first request must not wait for it.
        from core.store.runs import BenchRuns

        return BenchRuns(settings.database_url)

    run = new_run(plan, describe_machine())
    recorder = Recorder(open_store, run)
    recorder.start()
    try:
        final = asyncio.run(_run(settings, plan, run, recorder, report, images))
    except BaseException:
        recorder.close()
        raise
    recorder.close()
    return final


def work(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    process_setup.configure_logs()
    done = conduct(load_settings(), decode(BenchPlan, arguments["plan"]), report)
    return job_result(done, stopped=N_("The benchmark was stopped."))


async def _run(
    settings: Settings,
    plan: BenchPlan,
    run: BenchRun,
    recorder: Recorder,
    report: ProgressCallback,
    images: RequestImages | None,
) -> BenchRun:
    stop = process_setup.stop_on_signals()
    local = [lane.name for lane in plan.lanes if lane.is_local]
    with ExitStack() as held:
        engines = Engines(settings, plan.lanes)
        held.callback(engines.close)
        telemetry: PassTelemetry | NoTelemetry = NoTelemetry()
        if local:
            telemetry = PassTelemetry(settings, local)
            held.callback(telemetry.close)
            telemetry.start()
        cluster = load_cluster(settings) if plan.send_from is not SendFrom.HERE else None
        senders = Senders(settings, plan, Timeouts(), recorder.save_request, cluster)
        held.callback(senders.close)
        stopped = StoppedRequests(settings)
        async with open_session(reuse=True, on_left=stopped.note) as session:
            runner = Runner(
                plan,
                run,
                session=session,
                engines=engines,
                devices=DeviceQueue(settings.locks_dir),
                telemetry=telemetry,
                recorder=recorder,
                report=report,
                images=images,
                stopped=stopped,
                senders=senders,
            )
            return await runner.run(stop)


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


if __name__ == "__main__":
    sys.exit(run(work))
