"""The load of a pass, sent by several processes: which processes, and how they share the requests.

They may run here or on nodes of the cluster. A schedule's requests are dealt out one after another, so
every request is sent when one process would have sent it; at a concurrency each process keeps its share of
the requests under way. All processes begin at the same moment of the clock that they share, or of clocks
that were compared before. Their records come back as they end and make up one run.
"""

import asyncio
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from core.bench.plan import BenchPlan, SendFrom
from core.bench.run.load import Extent, LaneLoad
from core.bench.run.load_process import Done, Go, PassTask, Stop
from core.bench.run.load_processes import Here, LoadProcesses, OnNode, Way
from core.chat_api.client import Timeouts
from core.chat_api.servers import place_of
from core.cluster.link import ClusterLink
from core.config.lanes import ADD_CLUSTER
from core.domain.runs import BenchRequest
from core.domain.specs import ClusterSpec, Endpoint
from core.domain.turns import Place
from core.engines.resolve import Node, error_of, node_trouble, read_snapshot, trouble
from core.errors import EngineError, InputError
from core.i18n import N_, Text
from core.settings import Settings
from core.units import milliseconds


class Senders:
    """Load processes by where the plan wants them, started when they are first needed.

    Belongs to one event loop; close it afterwards.
    """

    def __init__(
        self,
        settings: Settings,
        plan: BenchPlan,
        timeouts: Timeouts,
        on_request: Callable[[BenchRequest], None],
        cluster: ClusterSpec | None = None,
    ) -> None:
        """Raises InputError if the plan's requests are to come from nodes and there is no cluster."""
        self._settings = settings
        self._plan = plan
        self._timeouts = timeouts
        self._on_request = on_request
        self._link: ClusterLink | None = None
        self._groups: dict[str | None, LoadProcesses] = {}
        """By the node that they are on, None for this machine or for several."""
        if plan.send_from is SendFrom.HERE:
            return
        if cluster is None:
            raise InputError(
                N_("Requests can't be sent from nodes: lanes.toml has no cluster."),
                hint=ADD_CLUSTER,
            )
        self._link = ClusterLink(settings, cluster)

    async def of(self, endpoints: Sequence[Endpoint]) -> LoadProcesses | None:
        """The processes for a pass on these; None for the calling one. Raises EngineError for a lost node."""
        if self._plan.send_from is SendFrom.HERE and (self._plan.workers or 1) == 1:
            return None
        node = endpoints[0].node if self._plan.send_from is SendFrom.ENGINE else None
        if node not in self._groups:
            self._groups[node] = self._started(await self._ways(node))
        return self._groups[node]

    async def place(self, endpoint: Endpoint) -> Place:
        """Where the endpoint's engine is, seen from the processes that send."""
        match self._plan.send_from:
            case SendFrom.ENGINE:
                return await place_of(endpoint, measured_on=endpoint.node)
            case SendFrom.NODES:
                return Place(node=endpoint.node, over_network=True)
            case _:
                return await place_of(endpoint)

    def close(self) -> None:
        for processes in self._groups.values():
            processes.close()
        if self._link is not None:
            self._link.let_go()

    async def _ways(self, node: str | None) -> Sequence[Way] | None:
        """None for processes here alone."""
        if self._link is None or (self._plan.send_from is SendFrom.ENGINE and node is None):
            return None
        await asyncio.to_thread(self._link.await_reports)
        nodes: list[Node | None] = [None, *self._usable()] if node is None else [self._node(node)]
        number = self._plan.workers or len(nodes)
        places = [nodes[place % len(nodes)] for place in range(number)]
        return await asyncio.gather(*(asyncio.to_thread(self._way, place) for place in places))

    def _way(self, node: Node | None) -> Way:
        assert self._link is not None
        return Here(self._settings.home) if node is None else OnNode(self._link, node)

    def _usable(self) -> list[Node]:
        """Raises EngineError if no node of the cluster can be used."""
        snapshot = read_snapshot(self._settings)
        if (problem := trouble(snapshot)) is not None:
            raise error_of(problem)
        return [node for node in snapshot.nodes if node.alive] if snapshot else []

    def _node(self, name: str) -> Node:
        snapshot = read_snapshot(self._settings)
        if (problem := node_trouble(snapshot, name)) is not None:
            raise error_of(problem)
        node = snapshot.node(name) if snapshot else None
        assert node is not None  # node_trouble would have said so
        return node

    def _started(self, ways: Sequence[Way] | None) -> LoadProcesses:
        # Every request needs a number of its own; on engines' nodes there is at most one group for each lane.
        groups = len(self._plan.lanes) if self._plan.send_from is SendFrom.ENGINE else 1
        return LoadProcesses(
            self._settings,
            self._plan,
            self._timeouts,
            self._on_request,
            ways,
            group=len(self._groups),
            groups=groups,
        )


_NS = 1e-9
_HEAD_START_NS = 50_000_000
"""From the order to begin to the beginning; an order arrives in a fraction of it."""
_END_S = 5.0
_STREAMS_A_PROCESS = 32
_CHUNKS_PER_S_A_PROCESS = 10_000
_CORES_A_PROCESS = 4
"""The engines, or what else the machine is for, need cores too."""


class SplitLoad:
    """The load of one pass over several processes; see `core.bench.run.load.Load`."""

    def __init__(
        self,
        number: int,
        lanes: Sequence[LaneLoad],
        extent: Extent,
        processes: LoadProcesses,
        width: int | None,
    ) -> None:
        """`width`: the pass's concurrency; no more processes than that take part. None for a schedule."""
        self._number = number
        self._lanes = lanes
        self._extent = extent
        most = len(processes.all) if width is None else min(width, len(processes.all))
        self._processes = processes.all[: min(most, extent.requests or most)]
        self._notes: dict[str, dict[Text, None]] = {lane.name: {} for lane in lanes}
        self.start_ns = 0
        self.end_ns = 0

    @property
    def finished(self) -> int:
        return sum(self._finished(lane.name) for lane in self._lanes)

    @property
    def tokens(self) -> dict[str, int]:
        """Output tokens of the measured requests that were answered, by lane."""
        found: dict[str, int] = {}
        for process in self._processes:
            for lane, tokens in process.progress.tokens.items():
                found[lane] = found.get(lane, 0) + tokens
        return found

    @property
    def notes(self) -> dict[str, tuple[Text, ...]]:
        return {lane: tuple(notes) for lane, notes in self._notes.items()}

    @property
    def done_ratio(self) -> float:
        if self._extent.seconds is not None:
            elapsed_s = (time.perf_counter_ns() - self.start_ns) * _NS if self.start_ns else 0.0
            return min(1.0, max(0.0, elapsed_s / self._extent.seconds))
        finished = min(self._finished(lane.name) for lane in self._lanes)
        return min(1.0, finished / (self._extent.requests or 1))

    async def warm_up(self, requests: int, concurrency: int) -> None:
        """Prepare the pass in all processes, each with its share of the warm-up."""
        number = len(self._processes)
        for process in self._processes:
            await process.compare_clocks()
        self._note_clocks()
        tasks = [
            PassTask(
                number=self._number,
                lanes=tuple(
                    replace(lane, next_prompt=lane.next_prompt + place, step=number) for lane in self._lanes
                ),
                extent=replace(self._extent, requests=share(self._extent.requests, place, number)),
                warmup=share(requests, place, number) or 0,
                warmup_concurrency=max(1, share(concurrency, place, number) or 0),
            )
            for place in range(number)
        ]
        await self._all(tasks)

    async def run_closed(self, concurrency: int) -> None:
        number = len(self._processes)
        self.start_ns = time.perf_counter_ns() + _HEAD_START_NS
        shares = [share(concurrency, place, number) for place in range(number)]
        await self._run([Go(start_ns=self.start_ns, concurrency=each) for each in shares])

    async def run_open(self, arrivals: Callable[[], Iterable[float]]) -> None:
        number = len(self._processes)
        self.start_ns = time.perf_counter_ns() + _HEAD_START_NS
        await self._run(
            [Go(start_ns=self.start_ns, arrivals=arrivals, place=place, of=number) for place in range(number)]
        )

    async def _run(self, orders: Sequence[Go]) -> None:
        await self._all(
            [
                replace(order, start_ns=order.start_ns + process.offset_ns)
                for process, order in zip(self._processes, orders, strict=True)
            ]
        )
        self.end_ns = time.perf_counter_ns()

    async def _all(self, messages: Sequence[PassTask | Go]) -> None:
        """Ask all processes at once. When one fails, or this is cancelled, all of them stop."""
        asked = [
            asyncio.create_task(process.ask(message))
            for process, message in zip(self._processes, messages, strict=True)
        ]
        try:
            for answer in await asyncio.gather(*asked):
                if isinstance(answer, Done):
                    self._take(answer)
        except BaseException:
            for task in asked:
                task.cancel()
            stops = [asyncio.create_task(process.ask(Stop())) for process in self._processes]
            await asyncio.wait(stops, timeout=_END_S)
            for stop in stops:
                stop.cancel()
            raise

    def _note_clocks(self) -> None:
        for process in self._processes:
            if process.node is None:
                continue
            note = N_(
                "sent from node {node}, whose clock is known to within {time}",
                node=process.node,
                time=milliseconds(_rounded_up(process.offset_error_ns) * _NS),
            )
            for notes in self._notes.values():
                notes[note] = None

    def _take(self, done: Done) -> None:
        for lane, notes in done.notes.items():
            self._notes[lane] |= dict.fromkeys(notes)
        if done.failure:
            raise EngineError(
                N_("A process of the load test failed: {reason}", reason=done.failure),
                hint=N_("See the log for details."),
                code="load-process-failed",
            )

    def _finished(self, lane: str) -> int:
        return sum(process.progress.finished.get(lane, 0) for process in self._processes)


def processes_for(plan: BenchPlan, cores: int) -> int:
    """Return how many processes a plan gets where nobody says: one for small loads, on small machines, for
    images, and beside engines that compute on the same CPU.
    """
    on_cpu = any(lane.is_local and lane.settings.device == "cpu" for lane in plan.lanes)
    if plan.workload.images or on_cpu:
        return 1
    processes = 1.0
    for level in plan.load.levels:
        if level.concurrency is not None:
            processes = max(processes, level.concurrency / _STREAMS_A_PROCESS)
        elif level.rate_req_per_s is not None:
            chunks_per_s = level.rate_req_per_s * plan.workload.output_tokens
            processes = max(processes, chunks_per_s / _CHUNKS_PER_S_A_PROCESS)
    return max(1, min(cores // _CORES_A_PROCESS, math.ceil(processes)))


def cores_here() -> int:
    """Cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def share(amount: int | None, place: int, of: int) -> int | None:
    """Return what falls to one of so many processes; the first ones take what can't be divided."""
    return None if amount is None else amount // of + (place < amount % of)


def _rounded_up(error_ns: int) -> int:
    """To 1, 2 or 5 and zeros, so that passes whose clocks are known about equally well say the same."""
    steps = (step * int(10**power) for power in range(5, 20) for step in (1, 2, 5))
    return next(step for step in steps if step >= error_ns)
