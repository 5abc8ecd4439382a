"""Requests that fail or are stopped, as far as the engine's side of it tells more than the answer.

Servers answer most faults of their own with "Internal Server Error", or close the connection, and write the
reason into their log, often only after they have answered: `send_explained` reads it there.

A client that goes away ends a request for most engines at once, but not for all: `transformers serve` looks
only between two tokens, a server behind a proxy may never learn of it. Whoever leaves a request notes it in
`StoppedRequests`, for all LMDyno processes of a home; the note stays until the engine is seen idle. Until
then figures of the next request would include waiting for the one before.
"""

import asyncio
import hashlib
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.chat_api.answer import Answer
from core.chat_api.client import Session, Timeouts, send
from core.chat_api.servers import server_metrics
from core.domain.conversation import Message, Sampling
from core.domain.specs import Endpoint
from core.engines.diagnosis import recognise
from core.engines.registry import EngineEntry, EngineState, Registry
from core.engines.supervisor import read_since
from core.errors import EngineError
from core.settings import Settings
from core.telemetry.nvml import Nvml
from core.telemetry.processes import is_computing
from core.telemetry.sampler import GpuSensors

SAY_LITTLE = frozenset(
    {
        "bad-stream",
        "empty-answer",
        "endpoint-refused",
        "endpoint-unreachable",
        "engine-crashed",
        "engine-gave-up",
        "first-token-timeout",
        "stall-timeout",
    }
)
"""Codes of failures that the engine's log may explain."""
_WRITTEN_WITHIN_S = 1.0
_POLL_S = 0.1

_SILENT_SERVER_S = 120.0
"""How long a server that says nothing of its load is taken to be possibly busy."""
_METRICS_S = 1.0
_BUSY_GPU_RATIO = 0.05


async def send_explained(
    session: Session,
    endpoint: Endpoint,
    messages: Sequence[Message],
    sampling: Sampling,
    answer: Answer,
    timeouts: Timeouts,
    *,
    body: bytes | None = None,
) -> None:
    """As `core.chat_api.client.send`; the error has the cause that the engine's log names, if it does."""
    log = Path(endpoint.log_file) if endpoint.log_file else None
    size_before = _size_bytes(log) if log else 0
    try:
        await send(session, endpoint, messages, sampling, answer, timeouts, body=body)
    except EngineError as error:
        cause = await _cause(log, size_before) if log and error.code in SAY_LITTLE else None
        if cause is None:
            raise
        raise cause from error


async def _cause(log: Path, size_before: int) -> EngineError | None:
    """Return what the engine wrote since then; it is given a moment to write it."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + _WRITTEN_WITHIN_S
    while True:
        cause = recognise(await asyncio.to_thread(read_since, log, size_before))
        if cause or clock() >= deadline:
            return cause
        await asyncio.sleep(_POLL_S)


def _size_bytes(log: Path) -> int:
    try:
        return log.stat().st_size
    except OSError:
        return 0


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
