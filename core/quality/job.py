"""Quality runs as background jobs, and a whole run in this process; a run and its job have the same id.

`python -m core.quality.job FOLDER FD` is the worker, started by `core.jobs`. `conduct` takes a plan to its
record in the store and belongs into a process that does nothing else: a job or the command line. SIGTERM and
SIGINT stop the run with what it has. Stopping the job keeps what was found out by then: the run is in the
store, whatever becomes of the job.
"""

import asyncio
import signal
import sys
from collections.abc import Mapping
from contextlib import closing, suppress
from typing import Any

from core import process_setup
from core.chat_api.client import open_session
from core.codec import decode, encode
from core.domain.runs import ProgressCallback, QualityRun, RunState
from core.errors import EngineError, LMDynoError
from core.i18n import N_
from core.jobs.registry import Jobs
from core.jobs.worker import Report, run
from core.meter.devices import SampledUsage
from core.quality.asking import require_installed
from core.quality.plan import QualityPlan
from core.quality.runner import Runner, new_run
from core.settings import Settings, load_settings
from core.store.runs import QualityRuns
from core.telemetry.nvml import describe_machine

JOB_KIND = "quality"

_SIGN_OF_LIFE_S = 20.0
"""A run that is not saved for a minute counts as interrupted; loading large weights takes longer."""


def start_quality(settings: Settings, plan: QualityPlan) -> str:
    """Start the run in a process of its own and return its id.

    Raises InputError while another one runs, and EngineNotInstalled for tasks of a missing program.
    """
    if plan.external_tasks:
        require_installed()
    return Jobs(settings).start_module(
        JOB_KIND,
        "core.quality.job",
        {"plan": encode(plan).decode()},
        title=plan.label,
        job_id=plan.id,
        already_running=N_("A comparison is already running."),
        has_run=True,
    )


def work(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    process_setup.configure_logs()
    done = conduct(load_settings(), decode(QualityPlan, arguments["plan"]), report)
    if done.state is RunState.STOPPED:
        raise LMDynoError(
            N_("The comparison was stopped."), hint=N_("The results so far are kept."), code="stopped"
        )
    if done.error is not None:
        raise EngineError(done.error.message, hint=done.error.hint, code=done.error.code)
    return {"run_id": done.id, "state": done.state}


def conduct(settings: Settings, plan: QualityPlan, report: ProgressCallback) -> QualityRun:
    """Run a plan to its end and return its run, in its final state and stored. Main thread only.

    Raises LMDynoError if it can't be run at all, and StoreError if it can't be stored.
    """
    with closing(QualityRuns(settings.database_url)) as store:
        run = new_run(plan, describe_machine())
        store.save(run)
        return asyncio.run(_run(settings, plan, run, store, report))


async def _run(
    settings: Settings, plan: QualityPlan, run: QualityRun, store: QualityRuns, report: ProgressCallback
) -> QualityRun:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    usage = SampledUsage(settings) if any(lane.is_local for lane in plan.lanes) else None
    if usage is not None:
        usage.start()
    try:
        async with open_session() as session:
            runner = Runner(
                settings, plan, run, session=session, usage=usage, save=store.save, report=report, stop=stop
            )
            signs = asyncio.create_task(_show_life(runner, store))
            try:
                return await runner.conduct()
            finally:
                signs.cancel()
                with suppress(asyncio.CancelledError):
                    await signs
    finally:
        if usage is not None:
            usage.close()


async def _show_life(runner: Runner, store: QualityRuns) -> None:
    while True:
        await asyncio.sleep(_SIGN_OF_LIFE_S)
        store.save(runner.run)


if __name__ == "__main__":
    sys.exit(run(work))
