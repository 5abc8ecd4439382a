"""Which engines of a home run, in engines.json, and who is using one right now: its leases.

Every LMDyno process of one home reads and writes engines.json: the dashboard, the meter, the command line.
Writes are atomic and one at a time between processes and threads. The file is readable by its owner alone,
since it holds the random keys of local engines. What it says about a process must be checked against the
process. How the replicas of a lane are stands in a file beside the engine's log, which
`core.engines.launch.serve_replicas` writes. It is believed only while the leader runs.

A request holds its engine's lease while it runs, and nobody stops an engine whose lease is held. Leases are
kernel locks, so those of a process that died are gone with it.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from core.codec import decode, encode
from core.domain.specs import Endpoint, LaneSpec
from core.domain.turns import ErrorInfo, new_id, utc_now
from core.errors import EngineBusy, InputError
from core.files import holders, is_held, lock_path, locked, try_lock, unlock, write_atomically
from core.i18n import N_, Text
from core.settings import Settings
from core.telemetry.processes import ProcessId

_PATIENCE_S = 0.1
"""Longer than anybody holds the exclusive lease just to look whether the engine is in use."""

log = logging.getLogger(__name__)
_MOST_BYTES = 2**16


@contextmanager
def lease(settings: Settings, lane_name: str) -> Iterator[None]:
    """Keep the lane's engine from being stopped; any number of requests at once.

    Never waits longer than a tenth of a second, so it is fit for an event loop. Raises EngineBusy when the
    engine is being stopped.
    """
    descriptor = try_lock(_path(settings, lane_name), shared=True, patience_s=_PATIENCE_S)
    if descriptor is None:
        raise EngineBusy(
            N_("The engine of {lane} is stopping.", lane=lane_name),
            hint=N_("Wait until it has stopped, then start it again."),
            code="engine-stopping",
        )
    try:
        yield
    finally:
        unlock(descriptor)


@contextmanager
def sole_use(settings: Settings, lane_name: str) -> Iterator[None]:
    """Keep new requests away from the lane's engine; raises EngineBusy while one runs."""
    descriptor = try_lock(_path(settings, lane_name), patience_s=_PATIENCE_S)
    if descriptor is None:
        raise EngineBusy(
            N_("{lane} is answering a request.", lane=lane_name),
            hint=N_("Wait for the answer or stop it, then try again. Or force the engine to stop."),
        )
    try:
        yield
    finally:
        unlock(descriptor)


def in_use(settings: Settings, lane_name: str) -> bool:
    """Whether a request of any process holds the lane's lease. Cheap."""
    return is_held(_path(settings, lane_name))


def lease_count(settings: Settings, lane_name: str) -> int | None:
    """Return how often the lane's lease is held, by all processes; None where the system can't tell.

    A request holds it once, and so does a run for its engines; a load test's requests hold none of their own.
    """
    return holders(_path(settings, lane_name))


def _path(settings: Settings, lane_name: str) -> Path:
    return lock_path(settings.locks_dir, f"lease-{lane_name}")


class EngineState(StrEnum):
    STARTING = "starting"
    HEALTHY = "healthy"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


STATE_NAMES = {
    EngineState.STARTING: N_("starting"),
    EngineState.HEALTHY: N_("ready"),
    EngineState.STOPPING: N_("stopping"),
    EngineState.STOPPED: N_("stopped"),
    EngineState.FAILED: N_("failed"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineEntry:
    """One engine, from the wish to start it to its end."""

    lane: LaneSpec
    state: EngineState
    since: datetime
    """When it entered this state."""
    owner: ProcessId | None
    """The LMDyno process that ends it when it ends itself; None for engines that outlive their starter."""
    worker: ProcessId
    """The LMDyno process that is starting or stopping it, or did so last."""
    start_id: str = field(default_factory=new_id)
    """Names this one start; the engine's processes carry it in their environment."""
    process: ProcessId | None = None
    """The leader of the engine's process group; None before it is spawned."""
    port: int | None = None
    endpoint: Endpoint | None = None
    log_file: str
    stage: Text | None = None
    """What start-up is doing, in words for people."""
    error: ErrorInfo | None = None
    gpus: tuple[int, ...] = ()
    gpu_bytes: int | None = None
    """GPU memory that went with its start, on the first of its GPUs; None on a CPU or where unknown."""

    @property
    def name(self) -> str:
        return self.lane.name

    @property
    def alive(self) -> bool:
        """Whether its process runs right now; asks the system."""
        return self.process is not None and self.process.alive

    def to(self, state: EngineState, **changes: Any) -> "EngineEntry":  # noqa: ANN401 - replace()'s own
        """The entry in another state, from now on."""
        return replace(self, state=state, since=utc_now(), **changes)

    def without_process(self) -> "EngineEntry":
        """The entry of an engine that is gone, with its error if it has one."""
        return replace(self, process=None, port=None, endpoint=None, stage=None, gpus=(), gpu_bytes=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    engines: tuple[EngineEntry, ...] = ()


class Registry:
    """The engines of one home, by lane name. Thread-safe, and safe between processes."""

    def __init__(self, settings: Settings) -> None:
        self._path = settings.engines_file
        self._lock = lock_path(settings.locks_dir, "engines")
        self._cache: tuple[tuple[int, int, int], Mapping[str, EngineEntry]] | None = None

    def read(self) -> Mapping[str, EngineEntry]:
        """All engines as last written. Cheap while nothing changes."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return {}
        timestamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        cached = self._cache
        if cached is None or cached[0] != timestamp:
            cached = (timestamp, self._load())
            self._cache = cached
        return cached[1]

    def get(self, name: str) -> EngineEntry | None:
        return self.read().get(name)

    @contextmanager
    def changing(self) -> Iterator[dict[str, EngineEntry]]:
        """The engines to change in place; written when the block ends without an error.

        Nobody else can change anything meanwhile, so the block must be short.
        """
        with locked(self._lock):
            before = self._load()
            engines = dict(before)
            yield engines
            if engines != before:
                self._write(_File(engines=tuple(engines.values())))

    def update(self, entry: EngineEntry, **changes: Any) -> EngineEntry | None:  # noqa: ANN401
        """Change fields of that very start; None if it has ended or made way for another meanwhile."""
        with self.changing() as engines:
            current = engines.get(entry.name)
            if current is None or current.start_id != entry.start_id:
                return None
            engines[entry.name] = changed = replace(current, **changes)
            return changed

    def _load(self) -> dict[str, EngineEntry]:
        try:
            text = self._path.read_bytes()
        except FileNotFoundError:
            return {}
        try:
            return {entry.name: entry for entry in decode(_File, text).engines}
        except InputError as exc:
            aside = self._path.with_suffix(".unreadable.json")
            log.warning("%s can't be read (%s); it is now %s", self._path, exc.message, aside)
            self._path.replace(aside)
            return {}

    def _write(self, content: _File) -> None:
        write_atomically(self._path, encode(content))


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One of the servers behind a lane's address."""

    number: int
    """From 1 on."""
    state: EngineState
    since: datetime
    pid: int | None
    device: str | None
    """Such as `cuda:0`."""
    exit_code: int | None
    """How it ended, negative for a signal; None while it runs."""


def replica_log(log_file: Path, number: int) -> Path:
    """The log of one replica of the engine with this log."""
    return log_file.with_name(f"{log_file.stem}~{number}.log")


def replica_logs(entry: EngineEntry) -> tuple[Path, ...]:
    """The logs of all replicas; none for an engine without."""
    count = entry.lane.settings.replicas
    return (
        tuple(replica_log(Path(entry.log_file), number) for number in range(1, count + 1))
        if count > 1
        else ()
    )


def replicas_of(entry: EngineEntry) -> tuple[Replica, ...]:
    """The replicas of an engine that runs, as last told; none before the first word, or without any."""
    if entry.lane.settings.replicas == 1 or entry.process is None or not entry.alive:
        return ()
    log_file = Path(entry.log_file)
    try:
        with log_file.with_name(f"{log_file.stem}~replicas.json").open("rb") as file:
            document = json.loads(file.read(_MOST_BYTES))
        if document["leader"] != entry.process.pid:
            return ()  # left by an earlier start
        replicas = document["replicas"]
        return tuple(_replica(facts, entry.gpus, len(replicas)) for facts in replicas)
    except (OSError, ValueError, KeyError, TypeError):
        return ()


def _replica(facts: dict[str, Any], gpus: tuple[int, ...], count: int) -> Replica:
    number, size = facts["number"], len(gpus) // count
    mine = gpus[size * (number - 1) : size * number]
    return Replica(
        number=number,
        state=EngineState(facts["state"]),
        since=datetime.fromtimestamp(facts["since_s"], UTC),
        pid=facts["pid"],
        device=f"cuda:{','.join(map(str, mine))}" if mine else None,
        exit_code=facts["exit_code"],
    )
