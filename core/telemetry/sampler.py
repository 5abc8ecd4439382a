"""The time series behind every chart of memory, power and load: a thread that reads all sensors.

Ten samples a second while an engine loads or answers, one a second otherwise, the last quarter of an hour
kept. It is told which engines run; it starts and stops none.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from core.domain.turns import ErrorInfo
from core.telemetry.attribution import Attribution
from core.telemetry.gpus import GpuReading
from core.telemetry.processes import EngineLoad
from core.telemetry.samples import EngineProcess, EngineReading, Sample
from core.telemetry.window import WindowStats, window_stats

BUSY_INTERVAL_S = 0.1
IDLE_INTERVAL_S = 1.0
_KEEP_S = 900.0


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
