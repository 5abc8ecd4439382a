"""All engines of a home for one LMDyno process, behind one face, and the engines of a run.

Without `[cluster]` that is the `EngineManager` itself. With it, lanes that name a node go there through the
cluster's process. A lane that names none stays here if this machine can hold it, and is placed by free GPU
memory otherwise.

A run's engines (`Engines`) are started where they don't run, kept while they are measured, and left as they
were found. While a run goes on they belong to the run's process, so that a dashboard which ends or restarts
meanwhile does not take them along.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from core.access.guard import Action, authorise
from core.cluster.link import ClusterLink
from core.cluster.protocol import Verb
from core.config import load_cluster
from core.domain.specs import ClusterSpec, Endpoint, EngineKind, LaneSpec
from core.domain.turns import ErrorInfo, utc_now
from core.engines.launch.table import LAUNCH_TABLE, LaunchRow, need_of
from core.engines.manager import EngineManager
from core.engines.placement import GpuView, visible
from core.engines.registry import EngineState, Registry, lease, sole_use
from core.engines.resolve import engine_node, find_endpoint, read_snapshot, same_engine
from core.engines.status import EngineStatus, node_status, wait_until_healthy
from core.engines.supervisor import STARTING
from core.errors import ConfigError, EngineBusy, EngineError
from core.i18n import N_
from core.settings import Settings
from core.telemetry.nvml import Nvml
from core.telemetry.processes import ProcessId, this_process

log = logging.getLogger(__name__)

_PATIENCE_S = 5.0
"""How long `ensure` waits for the cluster's process; a start takes milliseconds once Ray is reached."""
_ADOPTION_S = 2.0
_LOG_S = 5.0
"""A page that shows a log waits no longer for a node."""
_UP = (EngineState.STARTING, EngineState.HEALTHY)


class EngineControl(Protocol):
    """What a process does with engines; `core.engines.manager.EngineManager` says what each method means."""

    def configure(self, lanes: Sequence[LaneSpec]) -> None: ...
    def adopt_orphans(self) -> None: ...
    def ensure(self, name: str) -> None: ...
    def wait_until_healthy(
        self, name: str, timeout_s: float, on_progress: Callable[[EngineStatus], None] | None = None
    ) -> EngineStatus: ...
    def stop(self, name: str, *, force: bool = False) -> None: ...
    def restart(self, name: str) -> None: ...
    def status(self, name: str) -> EngineStatus: ...
    def statuses(self) -> tuple[EngineStatus, ...]: ...
    def log_file(self, name: str) -> Path | None: ...
    def log_tail(self, name: str, lines: int = 40, *, replica: int | None = None) -> str: ...
    def close(self) -> None: ...


def engines_of(
    settings: Settings,
    lanes: Sequence[LaneSpec],
    cluster: ClusterSpec | None,
    *,
    gpu: GpuView | None = None,
    persistent: bool = False,
    wait: bool = False,
) -> EngineControl:
    """The engines of these lanes; starts none yet.

    Args:
        settings: the home.
        lanes: those that `ensure` knows.
        cluster: the one whose nodes run engines too; None for this machine alone.
        gpu: tells this machine's GPUs and their free memory; None for a machine without any.
        persistent: engines outlive this process.
        wait: until the cluster's nodes have told what runs there, or Ray turns out to be out of reach.
    """
    here = EngineManager(settings, lanes, persistent=persistent, gpu=gpu)
    if cluster is None:
        return here
    link = ClusterLink(settings, cluster)
    if wait:
        try:
            link.await_reports()
        except EngineError as error:  # lanes of this machine go on without the nodes
            log.warning("cluster not reached reason=%s", error.message)
    return ClusterEngines(settings, lanes, here, link, gpu=gpu, persistent=persistent)


class ClusterEngines:
    """The engines of this machine and of a cluster's nodes. Thread-safe."""

    def __init__(
        self,
        settings: Settings,
        lanes: Sequence[LaneSpec],
        here: EngineManager,
        link: ClusterLink,
        *,
        gpu: GpuView | None = None,
        persistent: bool = False,
        rows: Mapping[EngineKind, LaunchRow] = LAUNCH_TABLE,
    ) -> None:
        """`here` runs this machine's engines, `link` reaches the nodes; both are closed with this."""
        self._settings = settings
        self._lanes = {lane.name: lane for lane in lanes}
        self._here = here
        self._link = link
        self._gpu = gpu
        self._persistent = persistent
        self._rows = rows
        self._me = this_process()
        self._made_at = utc_now()
        self._registry = Registry(settings)
        self._lock = threading.Lock()
        """Protects what follows."""
        self._asking: set[str] = set()
        """Lanes that the cluster's process is being asked to start."""
        self._failures: dict[str, ErrorInfo] = {}
        """Why a lane could not be started on any node, until it is tried again."""
        self._closed = threading.Event()

    def configure(self, lanes: Sequence[LaneSpec]) -> None:
        """Take these lanes instead."""
        self._lanes = {lane.name: lane for lane in lanes}
        self._here.configure(lanes)

    def adopt_orphans(self) -> None:
        """From now on, take over engines whose owner is gone, here and on nodes, as a dashboard does."""
        self._here.adopt_orphans()
        self._link.keep()
        threading.Thread(target=self._adopt_again_and_again, name="nodes-orphans", daemon=True).start()

    def ensure(self, name: str) -> None:
        """See to it that the lane's engine runs; returns at once, or after some seconds if a node is slow.

        What keeps a node from starting it shows in the lane's status. Raises AccessDenied, ConfigError and
        EngineBusy as `EngineManager.ensure` does.
        """
        lane = self._lane(name)
        if not lane.is_local:
            return
        if not self._goes_to_node(lane):
            with self._lock:
                self._failures.pop(name, None)
            self._here.ensure(name)
            return
        if not self._serves_on_node(lane):
            authorise(Action.START_ENGINE, name)
        elif not self._is_orphaned(name):
            return
        self._ask_in_background(lane)

    def wait_until_healthy(
        self,
        name: str,
        timeout_s: float,
        on_progress: Callable[[EngineStatus], None] | None = None,
    ) -> EngineStatus:
        """As `EngineManager.wait_until_healthy`."""
        return wait_until_healthy(lambda: self.status(name), timeout_s, on_progress)

    def stop(self, name: str, *, force: bool = False) -> None:
        """End the lane's engine and wait until it is gone. Raises EngineBusy, and EngineError for a node that
        doesn't answer."""
        lane = self._known(name)
        with self._lock:
            self._failures.pop(name, None)
        if lane is None or self._node_of(lane) is None:
            self._here.stop(name, force=force)
            return
        authorise(Action.STOP_ENGINE, name)
        with nullcontext() if force else sole_use(self._settings, name):
            self._link.ask(Verb.STOP, lane=lane, force=force)

    def restart(self, name: str) -> None:
        """Stop the engine and start it with the lane's present settings, where it is or belongs now."""
        lane = self._lane(name)
        if self._node_of(lane) is None:
            self._here.restart(name)
            return
        authorise(Action.RESTART_ENGINE, name)
        with sole_use(self._settings, name):
            self._link.ask(Verb.RESTART, lane=lane, persistent=self._persistent)

    def status(self, name: str) -> EngineStatus:
        """How the lane's engine is now, by the newest report. Cheap. Raises ConfigError for no such lane."""
        lane = self._known(name) or self._lane(name)
        node = self._node_of(lane)
        with self._lock:
            failure, is_asking = self._failures.get(name), name in self._asking
        if node is None and failure is None and not is_asking:
            return self._here.status(name)
        now = self._status_on(lane, node)
        if now.state in _UP:
            return now
        if is_asking:
            stage = N_("Asking the Ray cluster to start it")
            return replace(now, state=EngineState.STARTING, stage=stage, error=None)
        if failure is not None:
            return replace(now, state=EngineState.FAILED, error=failure)
        return now

    def statuses(self) -> tuple[EngineStatus, ...]:
        """All lanes whose engines LMDyno runs, then engines that still run for lanes no longer configured."""
        configured = [name for name, lane in self._lanes.items() if lane.is_local]
        here = [now.name for now in self._here.statuses() if now.name not in self._lanes]
        snapshot = read_snapshot(self._settings)
        on_nodes = [
            engine.name
            for node in (snapshot.nodes if snapshot else ())
            for engine in node.engines
            if engine.pid is not None and engine.name not in self._lanes
        ]
        return tuple(self.status(name) for name in dict.fromkeys((*configured, *here, *on_nodes)))

    def log_file(self, name: str) -> Path | None:
        """Where the lane's engine writes its log; None for one on a node."""
        lane = self._known(name)
        return self._here.log_file(name) if lane is None or self._node_of(lane) is None else None

    def log_tail(self, name: str, lines: int = 40, *, replica: int | None = None) -> str:
        """The last lines of the engine's log; of a node that doesn't answer, the reason instead."""
        lane = self._known(name)
        if lane is None or self._node_of(lane) is None:
            return self._here.log_tail(name, lines, replica=replica)
        try:
            reply = self._link.ask(Verb.LOG, timeout_s=_LOG_S, lane=lane, lines=lines, replica=replica)
        except EngineError as error:
            return f"{error.message}\n{error.hint}"
        return reply.text

    def close(self) -> None:
        """End the engines that belong to this process, here and on nodes."""
        self._closed.set()
        self._link.close()
        self._here.close()

    def _lane(self, name: str) -> LaneSpec:
        if lane := self._lanes.get(name):
            return lane
        self._here.status(name)  # raises, but for an engine that still runs here
        raise ConfigError(N_('There is no lane "{name}".', name=name), hint="")

    def _known(self, name: str) -> LaneSpec | None:
        """The configured lane, or the one that an engine on a node still runs for."""
        if lane := self._lanes.get(name):
            return lane
        snapshot = read_snapshot(self._settings)
        engines = (engine for node in (snapshot.nodes if snapshot else ()) for engine in node.engines)
        return next((engine.lane for engine in engines if engine.name == name), None)

    def _node_of(self, lane: LaneSpec) -> str | None:
        return engine_node(self._settings, lane, self._registry.get(lane.name)) if lane.is_local else None

    def _goes_to_node(self, lane: LaneSpec) -> bool:
        """Whether a start of the lane is for the cluster."""
        if lane.node is not None:
            return True
        entry = self._registry.get(lane.name)
        if entry is not None and entry.state in _UP and entry.worker.alive:
            return False
        return self._is_up_on_node(lane) or not self._fits_here(lane)

    def _is_up_on_node(self, lane: LaneSpec) -> bool:
        node = self._node_of(lane)
        return node is not None and self._status_on(lane, node).state in _UP

    def _status_on(self, lane: LaneSpec, node: str | None) -> EngineStatus:
        return node_status(self._settings, lane, node, self._made_at, self._me)

    def _serves_on_node(self, lane: LaneSpec) -> bool:
        snapshot = read_snapshot(self._settings)
        name = self._node_of(lane)
        node = snapshot.node(name) if snapshot and name else None
        engine = node.engine(lane.name) if node and node.alive else None
        return engine is not None and engine.state in _UP and same_engine(engine.lane, lane)

    def _fits_here(self, lane: LaneSpec) -> bool:
        """Whether this machine can hold the lane's engine now."""
        row = self._rows[lane.kind]
        gpus = visible(self._gpu.devices(), os.environ) if self._gpu is not None else ()
        on_gpu = row.needs_gpu or lane.settings.device == "cuda" or lane.settings.devices is not None
        if lane.settings.device == "cpu" or not (gpus or on_gpu):
            return True
        try:
            need = need_of(lane, row)
        except EngineError:
            return False
        pinned = lane.settings.devices
        fitting = [
            gpu
            for gpu in gpus
            if pinned is None or gpu.index in pinned
            if gpu.free_bytes is None or need.fits(gpu.free_bytes)
        ]
        return len(fitting) >= lane.settings.gpu_count

    def _ask_in_background(self, lane: LaneSpec) -> None:
        """Ask the cluster's process; where Ray is reached, wait a little, as a request may follow at once."""
        with self._lock:
            self._failures.pop(lane.name, None)
            if lane.name in self._asking:
                return
            self._asking.add(lane.name)
        asking = threading.Thread(target=self._ask, args=(lane,), name=f"start-{lane.name}", daemon=True)
        asking.start()
        snapshot = read_snapshot(self._settings)
        if snapshot is not None and snapshot.connected:
            asking.join(_PATIENCE_S)
        with self._lock:
            failure = self._failures.get(lane.name)
        if failure is not None and failure.code == "engine-settings-differ":
            raise EngineBusy(failure.message, hint=failure.hint, code=failure.code)

    def _ask(self, lane: LaneSpec) -> None:
        failure = None
        try:
            node = self._link.ask(Verb.ENSURE, lane=lane, persistent=self._persistent).node
            log.info("engine asked for lane=%s node=%s", lane.name, node)
        except EngineError as error:
            log.warning("engine not started lane=%s code=%s", lane.name, error.code)
            failure = ErrorInfo.of(error)
        with self._lock:
            self._asking.discard(lane.name)
            if failure is not None:
                self._failures[lane.name] = failure

    def _is_orphaned(self, name: str) -> bool:
        """Whether the process that the engine on a node belongs to is gone."""
        snapshot = read_snapshot(self._settings)
        placement = snapshot.placement(name) if snapshot else None
        return placement is not None and placement.owner is not None and not placement.owner.alive

    def _adopt_again_and_again(self) -> None:
        while not self._closed.wait(_ADOPTION_S):
            snapshot = read_snapshot(self._settings)
            for placement in snapshot.placements if snapshot else ():
                lane = self._lanes.get(placement.lane)
                if lane is not None and self._is_orphaned(lane.name) and self._serves_on_node(lane):
                    self._ask(lane)


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
