"""Stand-ins for what surrounds a load test's runner, and `Bench`, which runs plans with them."""

import asyncio

from core.bench.run.recording import NoTelemetry, Recorder
from core.bench.run.runner import Runner, new_run
from core.chat_api.client import Timeouts, open_session
from core.domain.runs import BenchRecord
from core.domain.specs import Endpoint
from core.errors import EngineError, StoreError
from core.meter.devices import DeviceQueue


class MemoryStore:
    """What a store would have: the newest state of everything."""

    def __init__(self):
        self.run, self.passes, self.requests = None, {}, {}
        self.broken = False
        self.closed = False

    def save(self, run, passes=(), requests=()):
        if self.broken:
            raise StoreError("The disk is full", code="store-full")
        self.run = run
        self.passes |= {each.number: each for each in passes}
        self.requests |= {each.number: each for each in requests}

    def close(self):
        self.closed = True

    def record(self):
        requests = sorted(self.requests.values(), key=lambda request: request.number)
        return BenchRecord(run=self.run, passes=tuple(self.passes.values()), requests=tuple(requests))


class RemoteEngines:
    """Resolves endpoint lanes; notes what is asked of it, and fails where it is told to."""

    def __init__(self, failing=(), device=None):
        self.asked = []
        self.failing = set(failing)
        self.device = device

    async def ready(self, lane, on_stage):
        self.asked.append(f"ready {lane.name}")
        on_stage(f"{lane.name}: loading")
        if lane.name in self.failing:
            raise EngineError(f"{lane.name} died", code="engine-crashed")
        spec = lane.endpoint
        return Endpoint(
            url=spec.url, model=spec.model, dialect=spec.dialect, version="script 1", device=self.device
        )

    async def stop(self, lane):
        self.asked.append(f"stop {lane.name}")


class Bench:
    """Runs plans; keeps what was stored and told."""

    def __init__(self, tmp_path):
        self.store = MemoryStore()
        self.engines = RemoteEngines()
        self.telemetry = NoTelemetry()
        self.devices = None
        self.timeouts = Timeouts(stall_s=0.4)
        self.locks_dir = tmp_path / "locks"
        self.told = []
        self.stop_when = lambda bench: False
        self.stopped = None
        self.senders = None

    def run(self, plan):
        return asyncio.run(self._run(plan))

    async def _run(self, plan):
        stop = asyncio.Event()

        def report(stage, progress):
            self.told.append((stage, progress))
            if self.stop_when(self):
                stop.set()

        recorder = Recorder(lambda: self.store, new_run(plan, None))
        recorder.start()
        async with open_session(on_left=self.stopped.note if self.stopped else None) as session:
            self.devices = self.devices or DeviceQueue(self.locks_dir)
            try:
                await Runner(
                    plan,
                    new_run(plan, None),
                    session=session,
                    engines=self.engines,
                    devices=self.devices,
                    telemetry=self.telemetry,
                    recorder=recorder,
                    report=report,
                    timeouts=self.timeouts,
                    stopped=self.stopped,
                    senders=self.senders,
                ).run(stop)
            finally:
                recorder.close()
        return self.store.record()
