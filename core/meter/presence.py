"""A lock that shows whether a meter of this home is running."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.files import is_held, lock_path, try_lock, unlock
from core.settings import Settings

_PATIENCE_S = 0.1
"""Longer than anybody holds the lock just to look."""


@contextmanager
def present(settings: Settings) -> Iterator[None]:
    """Mark a meter as running; each dashboard may have one."""
    descriptor = try_lock(_path(settings), shared=True, patience_s=_PATIENCE_S)
    try:
        yield
    finally:
        if descriptor is not None:
            unlock(descriptor)


def is_running(settings: Settings) -> bool:
    return is_held(_path(settings))


def _path(settings: Settings) -> Path:
    return lock_path(settings.locks_dir, "meter")
