"""What the machine does while requests of this process run: a sampler beside the event loop.

Reading sensors takes milliseconds, so it happens in threads; the loop only waits for it before a request is
sent and after its answer has ended, never in between.
"""

import asyncio
from typing import Protocol

from core.domain.specs import Endpoint
from core.domain.turns import UsageWindow
from core.engines.watch import EngineWatch
from core.settings import Settings
from core.telemetry.nvml import Nvml
from core.telemetry.sampler import Sampler
from core.telemetry.window import usage_of


class UsageMeter(Protocol):
    """What a turn asks about the machine."""

    async def begin(self, endpoint: Endpoint) -> None:
        """A request is about to be sent there."""

    async def end(self, lane: str, endpoint: Endpoint, start_ns: int, end_ns: int) -> UsageWindow | None:
        """The window between two perf_counter_ns timestamps; None for a server that is not on this
        machine."""


class SampledUsage:
    """A UsageMeter over this machine's sensors; samples from `start` to `close`."""

    def __init__(self, settings: Settings) -> None:
        self._sampler = Sampler(Nvml(), EngineWatch(settings))

    def start(self) -> None:
        self._sampler.start()

    def close(self) -> None:
        self._sampler.close()

    async def begin(self, endpoint: Endpoint) -> None:
        # Idle sampling is once a second: without this the energy at the start would be a guess.
        if endpoint.device is not None:
            await asyncio.to_thread(self._sampler.sample)

    async def end(self, lane: str, endpoint: Endpoint, start_ns: int, end_ns: int) -> UsageWindow | None:
        if endpoint.device is None:
            return None
        stats = await asyncio.to_thread(self._sampler.window, start_ns, end_ns)
        return usage_of(stats, lane, _gpus_of(endpoint))


def _gpus_of(endpoint: Endpoint) -> tuple[int, ...]:
    return tuple(int(name.split(":")[1]) for name in sorted(endpoint.devices) if name.startswith("cuda:"))
