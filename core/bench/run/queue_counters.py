"""How long requests waited in an engine's own queue, by the counter that its server publishes.

LMDeploy (TurboMind and PyTorch engine) and vLLM publish it at `/metrics` unless told not to, SGLang with
`--enable-metrics`: a Prometheus histogram of the seconds from a request's entry into the engine's queue to
its first scheduling, one observation a request. Its sum and number are exact, and so is the mean of what a
pass added to them. Its buckets are left alone: they are too coarse (LMDeploy's and vLLM's first one ends at
0.3 s) for percentiles that would be more than guesses.
"""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass

from core.chat_api.client import Session, metrics_text
from core.chat_api.prometheus import published
from core.domain.bench import EngineQueue
from core.domain.specs import Endpoint

_HISTOGRAMS = (
    "lmdeploy:request_queue_time_seconds",  # lmdeploy 0.18.0, metrics/loggers.py
    "vllm:request_queue_time_seconds",  # vllm/v1/metrics/loggers.py
    "sglang:queue_time_seconds",  # sglang/srt/metrics/collector.py
)
_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueCounter:
    """A server's counter, which only grows while the server runs."""

    total_s: float
    requests: int


def read_counter(text: str) -> QueueCounter | None:
    """The counter in what a server publishes, over all its models and engines; None without one."""
    found = published(text)
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
