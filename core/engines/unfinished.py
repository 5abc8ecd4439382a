"""Engines that still compute for a request that was stopped.

A client that goes away ends a request for most engines at once, but not for all: `transformers serve` looks
only between two tokens, a server behind a proxy may never learn of it. Whoever leaves a request notes it
here, for all LMDyno processes of a home; the note stays until the engine is seen idle. Until then figures of
the next request would include waiting for the one before.
"""

import hashlib
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from core.chat_api.servers import server_metrics
from core.domain.specs import Endpoint
from core.engines.registry import EngineEntry, EngineState, Registry
from core.settings import Settings
from core.telemetry.nvml import Nvml
from core.telemetry.processes import is_computing
from core.telemetry.sampler import GpuSensors

_SILENT_SERVER_S = 120.0
"""How long a server that says nothing of its load is taken to be possibly busy."""
_METRICS_S = 1.0
_BUSY_GPU_RATIO = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """Work on a server that may disturb a request that is sent now."""

    lanes: tuple[str, ...] = ()
    """Local lanes on its devices whose engines still compute for a stopped request."""
    server_is_busy: bool = False
    """A remote server says that it works on something, after a request to it was stopped."""
    server_is_silent: bool = False
    """A request to a remote server was stopped shortly before, and the server doesn't say what it does."""

    @property
    def must_wait(self) -> bool:
        return bool(self.lanes) or self.server_is_busy


class StoppedRequests:
    """The notes of one home. Thread-safe, and safe between processes."""

    def __init__(
        self,
        settings: Settings,
        *,
        computes: Callable[[int], bool] = is_computing,
        gpus: GpuSensors | None = None,
    ) -> None:
        """`computes` tells whether a process's tree is at work, `gpus` how busy they are."""
        self._folder = settings.home / "unfinished"
        self._registry = Registry(settings)
        self._computes = computes
        self._gpus = gpus or Nvml()

    def note(self, endpoint: Endpoint) -> None:
        """A request to the endpoint was left before its end. Cheap, fit for an event loop."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path(endpoint.url).touch(mode=0o600)

    def since_s(self, url: str) -> float | None:
        """Seconds since a request there was left that may still be computed; None without any. Cheap."""
        noted_at = self._noted_at(url)
        return None if noted_at is None else max(0.0, time.time() - noted_at)

    def before(self, endpoint: Endpoint) -> Unfinished:
        """Return what may disturb a request to the endpoint now; takes up to a second where there
        is a note.
        """
        if endpoint.device is None or endpoint.node is not None:
            return self._of_server(endpoint)
        lanes = [
            entry.name
            for entry in self._registry.read().values()
            if entry.endpoint and endpoint.devices & entry.endpoint.devices and self.is_finishing(entry)
        ]
        return Unfinished(lanes=tuple(lanes))

    def is_finishing(self, entry: EngineEntry) -> bool:
        """Whether a local engine still computes for a request that was left; forgets the note once it
        doesn't."""
        if entry.state is not EngineState.HEALTHY or entry.endpoint is None or entry.process is None:
            return False
        url = entry.endpoint.url
        noted_at = self._noted_at(url)
        if noted_at is None:
            return False
        if noted_at < entry.process.created_s or not self._is_at_work(entry, entry.endpoint):
            self._forget(url, noted_at)
            return False
        return True

    def _is_at_work(self, entry: EngineEntry, endpoint: Endpoint) -> bool:
        load = server_metrics(endpoint.url, endpoint.api_key, timeout_s=_METRICS_S)
        if load is not None and load.is_idle is not None:
            return not load.is_idle
        assert entry.process is not None
        return self._computes(entry.process.pid) or self._is_busy(entry.gpus)

    def _is_busy(self, gpus: Collection[int]) -> bool:
        """Whether one of the GPUs is at work, by whomever."""
        readings = self._gpus.readings() if gpus else ()
        return any(
            reading.index in gpus and (reading.utilisation_ratio or 0.0) > _BUSY_GPU_RATIO
            for reading in readings
        )

    def _of_server(self, endpoint: Endpoint) -> Unfinished:
        noted_at = self._noted_at(endpoint.url)
        if noted_at is None:
            return Unfinished()
        load = server_metrics(endpoint.url, endpoint.api_key, timeout_s=_METRICS_S)
        if load is None or load.is_idle is None:
            if time.time() - noted_at < _SILENT_SERVER_S:
                return Unfinished(server_is_silent=True)
        elif not load.is_idle:
            return Unfinished(server_is_busy=True)
        self._forget(endpoint.url, noted_at)
        return Unfinished()

    def _noted_at(self, url: str) -> float | None:
        try:
            return self._path(url).stat().st_mtime
        except FileNotFoundError:
            return None

    def _forget(self, url: str, noted_at: float) -> None:
        if self._noted_at(url) == noted_at:  # none came while it was looked at
            self._path(url).unlink(missing_ok=True)

    def _path(self, url: str) -> Path:
        return self._folder / hashlib.blake2b(url.encode(), digest_size=12).hexdigest()
