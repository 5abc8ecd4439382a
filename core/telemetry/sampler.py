"""The time series behind every chart of memory, power and load: a thread that reads all sensors.

Ten samples a second while an engine loads or answers, one a second otherwise, the last quarter of an hour
kept. It is told which engines run; it starts and stops none.

For a GPU's memory by engine, the driver's process list is asked first. Inside a container it may name
processes by the host's numbers, or none at all, and on Windows' WDDM it names no sizes; then an engine's
share is what the used memory grew by since before it was started.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from core.domain.turns import ErrorInfo
from core.i18n import N_
from core.telemetry.processes import EngineLoad
from core.telemetry.samples import (
    EngineGpuMemory,
    EngineProcess,
    EngineReading,
    GpuReading,
    MemorySource,
    Sample,
)
from core.telemetry.series import WindowStats, window_stats

NOT_SEEN_BEFORE = N_(
    "The engine was loaded before measuring started, and the driver doesn't report memory per process."
)
NO_TOTAL = N_("Can't read the GPU's used memory.")

BUSY_INTERVAL_S = 0.1
IDLE_INTERVAL_S = 1.0
_KEEP_S = 900.0


@dataclass(slots=True)
class _Load:
    """An engine without process figures: the rest of the GPU's memory just before it was started."""

    engine: EngineProcess
    before_bytes: int | None
    grown_bytes: int | None = None


class Attribution:
    """Shares of each GPU by engine, sample after sample, in the order of loading."""

    def __init__(self) -> None:
        self._loads: dict[int, list[_Load]] = {}
        self._rest_bytes: dict[int, int | None] = {}
        self._lists_processes = False

    def attribute(
        self, gpus: Sequence[GpuReading], trees: Mapping[EngineProcess, frozenset[int]]
    ) -> dict[str, tuple[EngineGpuMemory, ...]]:
        """Each engine's memory by its name; `trees` holds the process ids of each engine."""
        shares: dict[str, tuple[EngineGpuMemory, ...]] = {engine.name: () for engine in trees}
        for reading in gpus:
            listed = _listed_bytes(reading, trees)
            self._lists_processes |= bool(listed)
            for name, used in listed.items():
                share = EngineGpuMemory(gpu=reading.index, used_bytes=used, source=MemorySource.PROCESSES)
                shares[name] += (share,)
            for share, name in self._by_difference(reading, trees, listed):
                shares[name] += (share,)
        return shares

    def _by_difference(
        self,
        reading: GpuReading,
        trees: Mapping[EngineProcess, frozenset[int]],
        listed: Mapping[str, int],
    ) -> list[tuple[EngineGpuMemory, str]]:
        rest = None if reading.used_bytes is None else reading.used_bytes - sum(listed.values())
        # Once the driver has named a process of ours, an engine it does not name holds no memory.
        unlisted = [
            engine
            for engine in trees
            if not self._lists_processes
            and engine.name not in listed
            and (engine.gpus is None or reading.index in engine.gpus)
        ]
        loads = self._update(reading.index, unlisted, rest)
        self._rest_bytes[reading.index] = rest
        return [(_share(reading.index, load, rest), load.engine.name) for load in loads]

    def _update(self, gpu: int, engines: Sequence[EngineProcess], rest: int | None) -> list[_Load]:
        """Forget engines that ended, note new ones, and measure all of them again."""
        loads = self._loads.get(gpu, [])
        present = {(engine.name, engine.pid) for engine in engines}
        kept: list[_Load] = []
        freed = 0
        for load in loads:
            if (load.engine.name, load.engine.pid) not in present:
                freed += load.grown_bytes or 0
            else:
                if load.before_bytes is not None:
                    load.before_bytes -= freed
                kept.append(load)
        known = {(load.engine.name, load.engine.pid) for load in kept}
        before = self._rest_bytes.get(gpu)
        kept += [
            _Load(engine, None if before is None else before - freed)
            for engine in engines
            if (engine.name, engine.pid) not in known
        ]
        ends = [*(load.before_bytes for load in kept[1:]), rest]
        for load, end in zip(kept, ends, strict=False):
            if load.before_bytes is not None and end is not None:
                load.grown_bytes = max(0, end - load.before_bytes)
        self._loads[gpu] = kept
        return kept


def _listed_bytes(reading: GpuReading, trees: Mapping[EngineProcess, frozenset[int]]) -> dict[str, int]:
    """Memory of each engine that the driver names with a size."""
    processes = [process for process in reading.processes or () if process.used_bytes is not None]
    return {
        engine.name: sum(process.used_bytes or 0 for process in processes if process.pid in pids)
        for engine, pids in trees.items()
        if any(process.pid in pids for process in processes)
    }


def _share(gpu: int, load: _Load, rest: int | None) -> EngineGpuMemory:
    if rest is None:
        return EngineGpuMemory(gpu=gpu, used_bytes=None, reason=NO_TOTAL)
    if load.before_bytes is None:
        return EngineGpuMemory(gpu=gpu, used_bytes=None, reason=NOT_SEEN_BEFORE)
    return EngineGpuMemory(gpu=gpu, used_bytes=load.grown_bytes, source=MemorySource.DIFFERENCE)


class GpuSensors(Protocol):
    """The part of `core.telemetry.nvml.Nvml` that the sampler uses."""

    def readings(self) -> tuple[GpuReading, ...]: ...
    def problem(self) -> ErrorInfo | None: ...


class Sampler:
    """Samples GPUs and engines in a thread of its own. Thread-safe.

    `engines` names the running engines; it is called ten times a second and must neither block nor raise.
    `now_ns` is the clock of the requests' timestamps.
    """

    def __init__(
        self,
        sensors: GpuSensors,
        engines: Callable[[], Sequence[EngineProcess]],
        *,
        now_ns: Callable[[], int] = time.perf_counter_ns,
    ) -> None:
        self._sensors = sensors
        self._engines = engines
        self._now_ns = now_ns
        # One sample at a time: a window may ask for one more than the thread took. Readers don't wait for it.
        self._taking = threading.Lock()
        self._lock = threading.Lock()
        self._samples: deque[Sample] = deque()
        self._attribution = Attribution()
        self._loads: dict[tuple[str, int], EngineLoad] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to sample; does nothing if it runs already."""
        with self._lock:
            if self._thread is None:
                self._stop.clear()
                self._thread = threading.Thread(target=self._run, name="telemetry-sampler", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End the thread; the samples stay readable."""
        self._stop.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def sample(self) -> Sample:
        """Take a sample now, beside the thread's own."""
        return self._take(self._engines())

    def samples(self, since_ns: int | None = None) -> tuple[Sample, ...]:
        """Return what is kept, oldest first; with `since_ns` only what came later."""
        with self._lock:
            if since_ns is None:
                return tuple(self._samples)
            recent: list[Sample] = []
            for sample in reversed(self._samples):
                if sample.at_ns <= since_ns:
                    break
                recent.append(sample)
            return tuple(reversed(recent))

    def window(self, start_ns: int, end_ns: int) -> WindowStats:
        """Statistics between two timestamps; takes a sample first if the last one is older than the end."""
        kept = self.samples()
        if not kept or kept[-1].at_ns < end_ns <= self._now_ns():
            self.sample()
            kept = self.samples()
        return window_stats(kept, start_ns, end_ns)

    def _run(self) -> None:
        last_ns: int | None = None
        while not self._stop.is_set():
            began_ns = self._now_ns()
            engines = self._engines()
            is_busy = any(engine.busy for engine in engines)
            if last_ns is None or is_busy or began_ns - last_ns >= IDLE_INTERVAL_S * 1e9:
                last_ns = self._take(engines).at_ns
            elapsed_s = (self._now_ns() - began_ns) * 1e-9
            self._stop.wait(max(0.0, BUSY_INTERVAL_S - elapsed_s))

    def _take(self, engines: Sequence[EngineProcess]) -> Sample:
        with self._taking:
            now_ns = self._now_ns()
            gpus = self._sensors.readings()
            loads = self._update_loads(engines, now_ns)
            shares = self._attribution.attribute(
                gpus, {engine: load.pids for engine, load in zip(engines, loads, strict=True)}
            )
            readings = tuple(
                EngineReading(
                    name=engine.name,
                    pid=engine.pid,
                    busy=engine.busy,
                    gpu_memory=shares[engine.name],
                    resident_bytes=load.resident_bytes,
                    cpu_ratio=load.cpu_ratio,
                )
                for engine, load in zip(engines, loads, strict=True)
            )
            sample = Sample(at_ns=now_ns, gpus=gpus, engines=readings, problem=self._sensors.problem())
            with self._lock:
                self._samples.append(sample)
                while self._samples[0].at_ns < now_ns - _KEEP_S * 1e9:
                    self._samples.popleft()
            return sample

    def _update_loads(self, engines: Sequence[EngineProcess], now_ns: int) -> list[EngineLoad]:
        keys = [(engine.name, engine.pid) for engine in engines]
        self._loads = {key: self._loads.get(key) or EngineLoad(key[1]) for key in keys}
        loads = list(self._loads.values())
        for load in loads:
            load.update(now_ns)
        return loads
