"""The load of a pass, sent by several processes: the same requests at the same times as by one.

A schedule's requests are dealt out one after another, so every request is sent when it would have been; at a
concurrency each process keeps its share of the requests under way. All processes begin at the same moment of
the clock that they share, or of clocks that were compared before. Their records come back as they end and
make up one run.
"""

import asyncio
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from core.bench.planning.plan import BenchPlan
from core.bench.run.load import Extent, LaneLoad
from core.bench.run.load_process import Done, Go, PassTask, Stop
from core.bench.run.load_processes import LoadProcesses
from core.errors import EngineError
from core.i18n import N_, Text
from core.units import milliseconds

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
