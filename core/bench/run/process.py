"""A whole run in this process: from a plan to its record in the store.

Belongs into a process that does nothing else: the command line, or a job that `core.jobs` starts with
`python -m core.bench.run.process`. SIGTERM and SIGINT stop the run and keep what was measured by then: it
is in the store, whatever becomes of the job.
"""

import asyncio
import signal
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from core import process_setup
from core.bench.plan import BenchPlan, SendFrom
from core.bench.run.load_process import switch_threads_quickly
from core.bench.run.recording import BenchStore, NoTelemetry, PassTelemetry, Recorder
from core.bench.run.runner import Runner, new_run
from core.bench.run.split_load import Senders, cores_here, processes_for
from core.bench.workload import RequestImages, check_sendable
from core.chat_api.client import Timeouts, open_session
from core.cluster.control import Engines
from core.codec import decode
from core.config import load_cluster
from core.domain.runs import BenchRun, ProgressCallback, RunState
from core.engines.requests import StoppedRequests
from core.errors import EngineError, LMDynoError
from core.i18n import N_
from core.images.store import ImageStore
from core.jobs.worker import Report, run
from core.meter.devices import DeviceQueue
from core.process_setup import allow_many_open_files
from core.settings import Settings, load_settings
from core.telemetry.nvml import describe_machine


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


async def _run(
    settings: Settings,
    plan: BenchPlan,
    run: BenchRun,
    recorder: Recorder,
    report: ProgressCallback,
    images: RequestImages | None,
) -> BenchRun:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
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


def work(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    process_setup.configure_logs()
    done = conduct(load_settings(), decode(BenchPlan, arguments["plan"]), report)
    if done.state is RunState.STOPPED:
        raise LMDynoError(
            N_("The benchmark was stopped."), hint=N_("The results so far are kept."), code="stopped"
        )
    if done.error is not None:
        raise EngineError(done.error.message, hint=done.error.hint, code=done.error.code)
    return {"run_id": done.id, "state": done.state}


if __name__ == "__main__":
    sys.exit(run(work))
