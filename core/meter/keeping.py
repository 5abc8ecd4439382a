"""Runs a turn in the process that asks, as the command line and jobs do, and keeps it in the history."""

import asyncio
from collections.abc import Callable
from contextlib import closing
from functools import partial

from core.domain.turns import RequestRecord, TurnPlan
from core.engines.registry import lease
from core.engines.requests import StoppedRequests
from core.engines.resolve import find_endpoint
from core.errors import StoreError
from core.images.store import ImageStore
from core.meter.devices import DeviceQueue, UsageMeter
from core.meter.protocol import Update
from core.meter.turns import run_turn
from core.settings import Settings
from core.store.turns import Store
from core.telemetry.nvml import describe_machine


async def run_and_keep(
    settings: Settings,
    plan: TurnPlan,
    *,
    on_update: Callable[[Update], None] = lambda _update: None,
    cancel: asyncio.Event | None = None,
    on_problem: Callable[[StoreError], None] | None = None,
    usage: UsageMeter | None = None,
) -> tuple[RequestRecord, ...]:
    """The turn's records, in plan order; failures of lanes are in them.

    Setting `cancel` ends every request that still runs. `on_problem` hears why the turn couldn't be stored;
    without it that StoreError is raised.
    """
    with closing(Store(settings.database_url)) as store:
        is_kept = _kept(lambda: store.save_turn(plan, describe_machine()), on_problem)

        def save_records() -> None:
            for record in records:
                store.save_request(record)

        records = await run_turn(
            plan,
            resolve=partial(find_endpoint, settings),
            lease=partial(lease, settings),
            on_update=on_update,
            cancel=cancel or asyncio.Event(),
            devices=DeviceQueue(settings.locks_dir),
            stopped=StoppedRequests(settings),
            image_url=ImageStore(settings.images_dir).data_url,
            usage=usage,
        )
        if is_kept:
            _kept(save_records, on_problem)
    return records


def _kept(write: Callable[[], None], on_problem: Callable[[StoreError], None] | None) -> bool:
    try:
        write()
    except StoreError as error:
        if on_problem is None:
            raise
        on_problem(error)
        return False
    return True
