"""Sends a session's prompts to lanes, one lane after another, through the meter's own code.

Runs in a job's process, so that drawing does not slow its clock. Each lane has the machine to itself: its
engine starts when its part begins and, if it was started for it, ends with it. A lane's failure is its own.
"""

import asyncio
import logging
import signal
from collections.abc import Callable, Coroutine, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from core.chat_api.client import open_session
from core.domain.specs import LaneSpec
from core.domain.turns import FinishReason, RequestRecord, TurnPlan
from core.engines.borrowed import Engines
from core.engines.leases import lease
from core.engines.resolve import find_endpoint
from core.engines.unfinished import StoppedRequests
from core.errors import LMDynoError
from core.i18n import N_
from core.images.store import ImageStore
from core.meter.devices import DeviceQueue
from core.meter.turns import Surroundings, Turn
from core.meter.usage import SampledUsage
from core.settings import Settings

log = logging.getLogger(__name__)

GIVE_UP_AFTER = 3
"""A lane that fails so often in a row is not asked any further; what was not asked can be asked later."""

OnRecord = Callable[[int, RequestRecord], None]
"""Takes the place of a turn in its lane's part, and what came of it."""
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class LanePart:
    """What one lane is asked: turns with a single request each."""

    lane: LaneSpec
    turns: tuple[TurnPlan, ...]
    on_record: OnRecord


def ask_lanes(settings: Settings, parts: Sequence[LanePart], tell: Tell) -> bool:
    """Ask everything; False if it was stopped before the end. What was cut short is not reported.

    Main thread only: SIGTERM and SIGINT stop it. `tell` gets what is waited for.
    """
    return asyncio.run(_ask_lanes(settings, parts, tell))


async def _ask_lanes(settings: Settings, parts: Sequence[LanePart], tell: Tell) -> bool:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with closing(SampledUsage(settings)) as usage:
        usage.start()
        stopped = StoppedRequests(settings)
        async with open_session(on_left=stopped.note) as session:
            around = Surroundings(
                session=session,
                resolve=partial(find_endpoint, settings),
                lease=partial(lease, settings),
                image_url=ImageStore(settings.images_dir).data_url,
                devices=DeviceQueue(settings.locks_dir),
                stopped=stopped,
                usage=usage,
            )
            for part in parts:
                if stop.is_set():
                    break
                with closing(Engines(settings, (part.lane,))) as engines:
                    await _unless(stop, _bring_up(engines, part.lane, tell))
                    await _ask_lane(part, around, stop)
    return not stop.is_set()


async def _bring_up(engines: Engines, lane: LaneSpec, tell: Tell) -> None:
    """Start what does not run; if it can't start, each answer's error says so."""
    tell(N_("{lane}: getting ready", lane=lane.name))
    try:
        await engines.ready(lane, tell)
    except LMDynoError as error:
        log.warning("engine not ready lane=%s code=%s", lane.name, error.code)


async def _ask_lane(part: LanePart, around: Surroundings, stop: asyncio.Event) -> None:
    failures = 0
    for place, plan in enumerate(part.turns):
        turn = Turn(plan, around, lambda _: None)
        await _unless(stop, turn.run())
        (record,) = turn.records()
        if record.finish_reason is FinishReason.CANCELLED or stop.is_set():
            return
        part.on_record(place, record)
        failures = failures + 1 if record.error else 0
        if failures == GIVE_UP_AFTER:
            log.warning("lane given up lane=%s code=%s", part.lane.name, record.error and record.error.code)
            return


async def _unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Wait for the work or the stop request, whichever comes first."""
    task, stopped = asyncio.ensure_future(work), asyncio.ensure_future(stop.wait())
    await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not task.done():
        task.cancel()
        await asyncio.wait((task,))
    elif error := task.exception():
        raise error
