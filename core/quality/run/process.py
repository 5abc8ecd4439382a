"""A whole quality run in this process: from a plan to its record in the store.

Belongs into a process that does nothing else: a job (`core.quality.worker`) or the command line. SIGTERM and
SIGINT stop the run with what it has.
"""

import asyncio
import signal
from contextlib import closing, suppress

from core.chat_api.client import open_session
from core.domain.runs import ProgressCallback, QualityRun
from core.meter.devices import SampledUsage
from core.quality.plan import QualityPlan
from core.quality.run.runner import Runner, new_run
from core.settings import Settings
from core.store.runs import QualityRuns
from core.telemetry.machine import describe_machine

_SIGN_OF_LIFE_S = 20.0
"""A run that is not saved for a minute counts as interrupted; loading large weights takes longer."""


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
