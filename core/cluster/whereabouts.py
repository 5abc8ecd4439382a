"""Where the cluster's process of a home is, and who needs it: `cluster.json` and two locks."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from core.codec import decode
from core.domain.specs import ClusterSpec
from core.errors import InputError
from core.locks import is_held, lock_path, try_lock, unlock
from core.settings import Settings
from core.telemetry.processes import ProcessId

_PATIENCE_S = 0.1
"""Longer than anybody holds a lock just to look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whereabouts:
    """A running cluster's process."""

    process: ProcessId
    address: str
    """The path of its Unix socket, in a folder that only its owner can enter."""
    cluster: ClusterSpec
    """What it is connected to."""


def whereabouts_file(settings: Settings) -> Path:
    return settings.home / "cluster.json"


def find_process(settings: Settings) -> Whereabouts | None:
    """The home's cluster process; None if none runs."""
    try:
        found = decode(Whereabouts, whereabouts_file(settings).read_bytes())
    except (FileNotFoundError, InputError):
        return None
    return found if found.process.alive else None


def process_lock(settings: Settings) -> Path:
    """Held by the cluster's process for as long as it lives."""
    return lock_path(settings.locks_dir, "cluster")


@contextmanager
def needed(settings: Settings) -> Iterator[None]:
    """Keep the cluster's process from ending for want of work; any number of holders."""
    descriptor = try_lock(_user_lock(settings), shared=True, patience_s=_PATIENCE_S)
    try:
        yield
    finally:
        if descriptor is not None:
            unlock(descriptor)


def is_needed(settings: Settings) -> bool:
    """Whether an LMDyno process needs the cluster's process."""
    return is_held(_user_lock(settings))


def _user_lock(settings: Settings) -> Path:
    return lock_path(settings.locks_dir, "cluster-user")
