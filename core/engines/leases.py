"""Leases: they show who is using an engine right now.

A request holds its engine's lease while it runs, and nobody stops an engine whose lease is held.
Leases are kernel locks, so those of a process that died are gone with it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import EngineBusy
from core.files import holders, is_held, lock_path, try_lock, unlock
from core.i18n import N_
from core.settings import Settings

_PATIENCE_S = 0.1
"""Longer than anybody holds the exclusive lease just to look whether the engine is in use."""


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
