"""What is recorded of a run while it goes on: its requests, and measurements beside them.

The run is written to the store in a thread of its own, so that no disk ever holds up a timestamp. What
can't be written is kept and tried again; only at the end is it an error.

Beside the requests of a pass, the machine's load is measured, and the time that requests waited in the
engine's queue. The machine's part is the sampler's window. The queue's part is a counter that the server
publishes: LMDeploy (TurboMind and PyTorch engine) and vLLM at `/metrics` unless told not to, SGLang with
`--enable-metrics`. It is a Prometheus histogram of the seconds from a request's entry into the engine's
queue to its first scheduling, one observation a request. Its sum and number are exact, and so is the mean
of what a pass added to them. Its buckets are left alone: they are too coarse (LMDeploy's and vLLM's first
one ends at 0.3 s) for percentiles that would be more than guesses.
"""

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from core.chat_api.client import Session
from core.chat_api.servers import metrics_text, published_metrics
from core.cluster.link import NodeWindows
from core.domain.runs import BenchPass, BenchRequest, BenchRun, EngineQueue, EngineUse, GpuUse
from core.domain.specs import Endpoint
from core.domain.turns import ErrorInfo
from core.engines.registry import EngineEntry, EngineState, Registry
from core.errors import StoreError
from core.settings import Settings
from core.telemetry.nvml import Nvml
from core.telemetry.sampler import Sampler
from core.telemetry.samples import EngineProcess
from core.telemetry.series import WindowStats

log = logging.getLogger(__name__)

_INTERVAL_S = 0.5
_SIGN_OF_LIFE_S = 15.0
"""A run that nothing happens in is saved again after this, so that nobody takes it for dead."""


class BenchStore(Protocol):
    """The part of `core.store.runs.BenchRuns` that is written to."""

    def save(
        self, run: BenchRun, passes: Sequence[BenchPass] = (), requests: Sequence[BenchRequest] = ()
    ) -> None: ...
    def close(self) -> None: ...


class Recorder:
    """Takes what is to be stored and returns at once. Thread-safe."""

    def __init__(self, open_store: Callable[[], BenchStore], run: BenchRun) -> None:
        """`open_store` runs in the writer thread, and may take its time to import what it needs."""
        self._open_store = open_store
        self._changed = threading.Condition()
        self._run = run
        self._run_changed = True
        self._passes: dict[int, BenchPass] = {}
        self._requests: deque[BenchRequest] = deque()
        self._closing = False
        self._failure: StoreError | None = None
        self._thread = threading.Thread(target=self._write, name="bench-recorder", daemon=True)
        self.ready = threading.Event()
        """The store is open, or could not be: from now on the thread takes little time."""

    @property
    def problem(self) -> ErrorInfo | None:
        """Why the store can't be written now."""
        failure = self._failure
        return ErrorInfo.of(failure) if failure else None

    def start(self) -> None:
        self._thread.start()

    def save_run(self, run: BenchRun) -> None:
        with self._changed:
            self._run, self._run_changed = run, True

    def save_pass(self, bench_pass: BenchPass) -> None:
        with self._changed:
            self._passes[bench_pass.number] = bench_pass

    def save_request(self, request: BenchRequest) -> None:
        # Without the lock: appending is atomic, and this is called between two timestamps.
        self._requests.append(request)

    def close(self) -> None:
        """Write what waits and end the thread; raises StoreError if that could not be written."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        if self._failure:
            raise self._failure

    def _write(self) -> None:
        store: BenchStore | None = None
        saved_at = float("-inf")
        closing = False
        while not closing:
            with self._changed:
                if not self._closing and saved_at > float("-inf"):
                    self._changed.wait(_INTERVAL_S)
                closing = self._closing
            due = time.monotonic() - saved_at >= _SIGN_OF_LIFE_S
            if not (due or self._run_changed or self._passes or self._requests):
                continue
            try:
                store = store or self._open_store()
                self._save(store)
                self._failure = None
            except StoreError as error:
                if self._failure is None:
                    log.warning("benchmark not stored code=%s", error.code)
                self._failure = error
            saved_at = time.monotonic()
            self.ready.set()
        if store:
            store.close()

    def _save(self, store: BenchStore) -> None:
        with self._changed:
            run, passes = self._run, dict(self._passes)
            self._run_changed = False
        requests = [self._requests[place] for place in range(len(self._requests))]
        try:
            store.save(run, tuple(passes.values()), requests)
        except StoreError:
            with self._changed:
                self._run_changed = True
            raise
        for _ in requests:
            self._requests.popleft()
        with self._changed:
            for number, bench_pass in passes.items():
                if self._passes.get(number) is bench_pass:
                    del self._passes[number]


_HISTOGRAMS = (
    "lmdeploy:request_queue_time_seconds",  # lmdeploy 0.18.0, metrics/loggers.py
    "vllm:request_queue_time_seconds",  # vllm/v1/metrics/loggers.py
    "sglang:queue_time_seconds",  # sglang/srt/metrics/collector.py
)
_TIMEOUT_S = 1.0


class PassTelemetry:
    """Samples GPUs and the engines of some lanes once a second; start and end of a pass are sampled too.

    More samples would cost the measuring process more than they tell of passes that last seconds; the energy
    comes from counters and does not need them.
    """

    def __init__(self, settings: Settings, lanes: Collection[str]) -> None:
        self._registry = Registry(settings)
        self._lanes = frozenset(lanes)
        self._sampler = Sampler(Nvml(), self._processes)
        self._nodes = NodeWindows(settings)

    def start(self) -> None:
        self._sampler.start()

    def close(self) -> None:
        self._sampler.close()

    async def mark(self) -> None:
        """Take a sample now, on the nodes of the lanes too."""
        await asyncio.gather(
            asyncio.to_thread(self._sampler.sample),
            *(asyncio.to_thread(self._nodes.mark, node) for node in self._used_nodes(self._lanes)),
        )

    async def use(
        self, lanes: Collection[str], start_ns: int, end_ns: int
    ) -> tuple[tuple[GpuUse, ...], tuple[EngineUse, ...]]:
        """The GPUs that the engines of these lanes are on, and all engines, between two timestamps."""
        stats = await asyncio.to_thread(self._sampler.window, start_ns, end_ns)
        used = {index for entry in self._entries() if entry.name in lanes for index in entry.gpus}
        gpus, engines = _gpu_use(stats, used), _engine_use(stats)
        for node, indices in self._used_nodes(lanes).items():
            there = await asyncio.to_thread(self._nodes.window, node, start_ns, end_ns)
            if there is not None:
                gpus += tuple(replace(gpu, node=node) for gpu in _gpu_use(there, indices))
                engines += tuple(engine for engine in _engine_use(there) if engine.lane in self._lanes)
        return gpus, engines

    def _used_nodes(self, lanes: Collection[str]) -> dict[str, set[int]]:
        """The GPUs that the engines of these lanes are on, by their nodes."""
        indices: dict[str, set[int]] = {}
        for name in lanes:
            if (running := self._nodes.engine(name)) is not None:
                node, engine = running
                indices.setdefault(node, set()).update(engine.gpus)
        return indices

    def _entries(self) -> list[EngineEntry]:
        return [entry for entry in self._registry.read().values() if entry.name in self._lanes]

    def _processes(self) -> tuple[EngineProcess, ...]:
        return tuple(process for entry in self._entries() if (process := _process(entry)) is not None)


class NoTelemetry:
    """Telemetry of runs whose engines are all remote."""

    async def mark(self) -> None:
        """Do nothing: there is nothing to sample."""

    async def use(
        self, _lanes: Collection[str], _start_ns: int, _end_ns: int
    ) -> tuple[tuple[GpuUse, ...], tuple[EngineUse, ...]]:
        return (), ()


def _process(entry: EngineEntry) -> EngineProcess | None:
    if entry.process is None or entry.state is not EngineState.HEALTHY:
        return None
    # Never busy: that would make the sampler ten times as eager.
    return EngineProcess(name=entry.name, pid=entry.process.pid, gpus=entry.gpus)


def _gpu_use(stats: WindowStats, indices: Collection[int]) -> tuple[GpuUse, ...]:
    return tuple(
        GpuUse(
            index=gpu.index,
            name=gpu.name,
            peak_used_bytes=gpu.peak_used_bytes,
            energy_j=gpu.energy_j,
            energy_gap=gpu.energy_gap,
            mean_power_w=gpu.mean_power_w,
            idle_power_w=gpu.idle_power_w,
            mean_utilisation_ratio=gpu.mean_utilisation_ratio,
        )
        for gpu in stats.gpus
        if gpu.index in indices
    )


def _engine_use(stats: WindowStats) -> tuple[EngineUse, ...]:
    return tuple(
        EngineUse(
            lane=engine.name,
            peak_gpu_bytes=engine.peak_gpu_bytes,
            peak_resident_bytes=engine.peak_resident_bytes,
            mean_cpu_ratio=engine.mean_cpu_ratio,
        )
        for engine in stats.engines
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueCounter:
    """A server's counter, which only grows while the server runs."""

    total_s: float
    requests: int


def read_counter(text: str) -> QueueCounter | None:
    """The counter in what a server publishes, over all its models and engines; None without one."""
    found = published_metrics(text)
    sums = [value for name in _HISTOGRAMS for value in found.get(f"{name}_sum", ())]
    counts = [value for name in _HISTOGRAMS for value in found.get(f"{name}_count", ())]
    if not sums or len(sums) != len(counts) or not all(map(math.isfinite, (*sums, *counts))):
        return None
    return QueueCounter(total_s=math.fsum(sums), requests=int(sum(counts)))


def rise(lane: str, before: QueueCounter, after: QueueCounter) -> EngineQueue | None:
    """The growth of a lane's counter between two readings; None if it fell, since the server restarted."""
    total_s, requests = after.total_s - before.total_s, after.requests - before.requests
    if total_s < 0 or requests < 0:
        return None
    return EngineQueue(lane=lane, total_s=total_s, requests=requests)


class QueueReader:
    """Reads the counters of a run's servers; for one event loop.

    A server that once shows none, or not within a second, is not asked again: it holds up a run only once.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._silent: set[str] = set()

    async def read(self, endpoints: Mapping[str, Endpoint]) -> dict[str, QueueCounter]:
        """The counters of the lanes whose servers publish one, by lane."""
        asked = {lane: each for lane, each in endpoints.items() if lane not in self._silent}
        read = await asyncio.gather(*(self._counter(each) for each in asked.values()))
        found = {lane: counter for lane, counter in zip(asked, read, strict=True) if counter is not None}
        self._silent |= asked.keys() - found.keys()
        return found

    async def _counter(self, endpoint: Endpoint) -> QueueCounter | None:
        text = await metrics_text(self._session, endpoint, timeout_s=_TIMEOUT_S)
        return None if text is None else read_counter(text)


def rises(before: Mapping[str, QueueCounter], after: Mapping[str, QueueCounter]) -> tuple[EngineQueue, ...]:
    """The growth of each lane's counter during a pass, for the lanes where it is known."""
    found = (rise(lane, before[lane], after[lane]) for lane in before if lane in after)
    return tuple(each for each in found if each is not None)
