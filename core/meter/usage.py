"""The machine's load while requests of this process run, and the wait until nothing else computes.

Reading sensors takes milliseconds, so a sampler does it in threads; the loop only waits for it before a
request is sent and after its answer has ended, never in between. Before a measured request is sent, nothing
may still compute for one that was stopped.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from core.cluster.link import NodeWindows
from core.domain.specs import Endpoint
from core.domain.turns import UsageWindow
from core.engines.unfinished import StoppedRequests, Unfinished
from core.engines.watch import EngineWatch
from core.i18n import N_, Text
from core.settings import Settings
from core.telemetry.nvml import Nvml
from core.telemetry.sampler import Sampler
from core.telemetry.window import WindowStats, usage_of

_POLL_S = 0.2


class UsageMeter(Protocol):
    """A turn's view of the machine."""

    async def begin(self, endpoint: Endpoint) -> None:
        """A request is about to be sent there."""

    async def end(self, lane: str, endpoint: Endpoint, start_ns: int, end_ns: int) -> UsageWindow | None:
        """The window between two perf_counter_ns timestamps; None for a server that LMDyno does
        not run."""


class SampledUsage:
    """A UsageMeter over this machine's sensors, and over those of nodes; samples from `start` to `close`."""

    def __init__(self, settings: Settings) -> None:
        self._sampler = Sampler(Nvml(), EngineWatch(settings))
        self._nodes = NodeWindows(settings)

    def start(self) -> None:
        self._sampler.start()

    def close(self) -> None:
        self._sampler.close()

    async def begin(self, endpoint: Endpoint) -> None:
        # Idle sampling is once a second: without this the energy at the start would be a guess.
        if endpoint.node is not None:
            await asyncio.to_thread(self._nodes.mark, endpoint.node)
        elif endpoint.device is not None:
            await asyncio.to_thread(self._sampler.sample)

    async def end(self, lane: str, endpoint: Endpoint, start_ns: int, end_ns: int) -> UsageWindow | None:
        if endpoint.device is None:
            return None
        stats: WindowStats | None
        if endpoint.node is not None:
            stats = await asyncio.to_thread(self._nodes.window, endpoint.node, start_ns, end_ns)
        else:
            stats = await asyncio.to_thread(self._sampler.window, start_ns, end_ns)
        return usage_of(stats, lane, _gpus_of(endpoint)) if stats else None


def _gpus_of(endpoint: Endpoint) -> tuple[int, ...]:
    return tuple(int(name.split(":")[1]) for name in sorted(endpoint.devices) if "cuda:" in name)


async def settled(
    stopped: StoppedRequests, endpoint: Endpoint, patience_s: float, on_wait: Callable[[Unfinished], None]
) -> tuple[Text, ...]:
    """Wait for what still computes, up to `patience_s`; returns what must be known about the next request.

    `on_wait` is called at each look while it waits, and must return at once.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + patience_s
    while (unfinished := await asyncio.to_thread(stopped.before, endpoint)).must_wait:
        if clock() >= deadline:
            if unfinished.server_is_busy:
                return (N_("The server was busy when this was sent, so the figures may include waiting."),)
            return (
                N_(
                    "{lanes} was still finishing a stopped request when this was sent, so the figures may "
                    "include waiting.",
                    lanes=", ".join(unfinished.lanes),
                ),
            )
        on_wait(unfinished)
        await asyncio.sleep(_POLL_S)
    if unfinished.server_is_silent:
        return (
            N_(
                "A request to this server was stopped shortly before. The server doesn't say whether it "
                "still works on it, so the figures may include waiting."
            ),
        )
    return ()
