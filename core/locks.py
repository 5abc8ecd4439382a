"""Locks between processes and threads, kept by the kernel: they end with their holder, also by `kill -9`."""

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


def lock_path(locks_dir: Path, name: str) -> Path:
    return locks_dir / f"{_UNSAFE.sub('_', name)}.lock"


def try_lock(path: Path, *, shared: bool = False, patience_s: float = 0.0) -> int | None:
    """The descriptor that holds the lock, to be given to `unlock`; None if others hold it.

    Tries again for `patience_s`. Two descriptors exclude each other within one process too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return None
            time.sleep(0.002)
        except BaseException:
            os.close(descriptor)
            raise


def unlock(descriptor: int) -> None:
    os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock; waits for as long as it takes, so only for work that is done in milliseconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether anybody holds the lock, shared or not. Cheap."""
    if not path.exists():
        return False
    # Two processes that look at the same time see each other's lock; a short second look tells.
    descriptor = try_lock(path, patience_s=0.005)
    if descriptor is None:
        return True
    unlock(descriptor)
    return False


def holders(path: Path) -> int | None:
    """Return how many hold the lock at once; None where the system has no list of locks, which Linux has."""
    if not path.exists():
        return 0
    try:
        listed = Path("/proc/locks").read_text("ascii")
    except OSError:
        return None
    # 1: FLOCK  ADVISORY  READ 2204 fe:01:1180 0 EOF; one that waits has "->" in the second place.
    entries = (line.split() for line in listed.splitlines())
    inode = str(path.stat().st_ino)
    return sum(entry[1] == "FLOCK" and entry[5].rpartition(":")[2] == inode for entry in entries)
