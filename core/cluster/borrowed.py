"""The engines of a run: started where they don't run, kept while they are measured, left as they were found.

While a run goes on its engines belong to the run's process, so that a dashboard which ends or restarts
meanwhile does not take them along.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace

from core.cluster.control import engines_of
from core.config import load_cluster
from core.domain.specs import Endpoint, LaneSpec
from core.engines.leases import lease
from core.engines.log.file import STARTING
from core.engines.registry import Registry
from core.engines.resolve import find_endpoint
from core.i18n import N_
from core.settings import Settings
from core.telemetry.nvml import Nvml
from core.telemetry.processes import ProcessId, this_process

log = logging.getLogger(__name__)

_POLL_S = 0.2


class Engines:
    """Engines and endpoints of a run's lanes; raises LMDynoError. Belongs to one event loop."""

    def __init__(self, settings: Settings, lanes: Sequence[LaneSpec]) -> None:
        self._settings = settings
        self._registry = Registry(settings)
        self._me = this_process()
        local = [lane for lane in lanes if lane.is_local]
        self._manager = (
            engines_of(settings, local, load_cluster(settings), gpu=Nvml(), wait=True) if local else None
        )
        self._held: dict[str, ExitStack] = {}

    async def ready(self, lane: LaneSpec, on_stage: Callable[[str], None]) -> Endpoint:
        """The lane's endpoint, with its engine started if need be and held from now on."""
        if not lane.is_local or lane.name in self._held:
            return await self._endpoint(lane, on_stage)
        if self._manager is not None:
            await asyncio.to_thread(self._manager.ensure, lane.name)
        await self._endpoint(lane, on_stage)
        held = ExitStack()
        held.enter_context(lease(self._settings, lane.name))
        self._held[lane.name] = held
        endpoint = await self._endpoint(lane, on_stage)
        # One on a node is kept by its lease: the cluster's process ends none that is in use.
        if endpoint.node is None and (former := self._take_over(lane.name)) is not None:
            held.callback(self._give_back, lane.name, former)
        return endpoint

    async def stop(self, lane: LaneSpec) -> None:
        """End the lane's engine if it runs here."""
        self._release(lane.name)
        if self._manager is not None and lane.is_local:
            await asyncio.to_thread(self._manager.stop, lane.name)

    def close(self) -> None:
        """Return the engines that ran before, and stop those that were started for the run."""
        for name in tuple(self._held):
            self._release(name)
        if self._manager is not None:
            self._manager.close()

    async def _endpoint(self, lane: LaneSpec, on_stage: Callable[[str], None]) -> Endpoint:
        while (endpoint := await asyncio.to_thread(find_endpoint, self._settings, lane)) is None:
            stage = self._manager.status(lane.name).stage if self._manager else None
            on_stage(N_("{lane}: {stage}", lane=lane.name, stage=stage or STARTING))
            await asyncio.sleep(_POLL_S)
        return endpoint

    def _release(self, name: str) -> None:
        if held := self._held.pop(name, None):
            held.close()

    def _take_over(self, name: str) -> ProcessId | None:
        """Make the engine this process's own; returns whose it was, None if nobody's or this process's."""
        with self._registry.changing() as engines:
            entry = engines[name]
            if entry.owner is None or entry.owner == self._me:
                return None
            engines[name] = replace(entry, owner=self._me)
            return entry.owner

    def _give_back(self, name: str, former: ProcessId) -> None:
        # An owner that has ended meanwhile is named all the same: the next dashboard adopts what is its.
        with self._registry.changing() as engines:
            entry = engines.get(name)
            if entry is not None and entry.owner == self._me:
                engines[name] = replace(entry, owner=former)
