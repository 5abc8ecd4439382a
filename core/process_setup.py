"""What an LMDyno process sets up for itself when it starts: its log, its open files and its heap.

There is one log format for all processes; prompts, answers and keys never go into a log line.

Each browser tab and each running answer takes some of the files, sockets and pipes that a process may have
open at once. Many systems allow 1,024 unless a process asks for more, and then all that comes on top fails.

glibc keeps a heap for each of many threads, and each keeps what was freed in it. A process whose threads
come and go, as those of a dashboard do, then grows without holding more.
"""

import ctypes
import errno
import logging
import resource
import signal
import sys
from typing import TYPE_CHECKING

from core.errors import LMDynoError
from core.i18n import N_

if TYPE_CHECKING:
    import asyncio


def configure_logs(level: int = logging.INFO) -> None:
    """Send records of `core.*`, and of the module that this process was started with, to stderr.

    Safe to call on every rerun; the root logger stays as it is.
    """
    started = logging.getLogger("__main__")
    if spec := sys.modules["__main__"].__spec__:
        started.name = spec.name
    for logger in (logging.getLogger("core"), started):
        logger.setLevel(level)
        if not logger.handlers:
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
            logger.addHandler(handler)
            logger.propagate = False


log = logging.getLogger(__name__)

ENOUGH_FILES = 4096
"""About 600 tabs."""
FILES_PER_TAB = 6
_MOST_FILES = 65_536
"""More is never needed, and some programs that inherit the limit walk through all the numbers below it."""


def open_files_allowed() -> int:
    """The limit that `allow_many` reaches, or has reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MOST_FILES
    reachable = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    return max(soft, reachable)


def allow_many_open_files() -> None:
    """Raise this process's limit as far as it may, and warn if that isn't far. Children inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = open_files_allowed()
    if soft != resource.RLIM_INFINITY and soft < limit:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (OSError, ValueError) as exc:  # macOS has a further limit of its own
            log.warning("open files limit not raised soft=%d hard=%d reason=%s", soft, hard, exc)
            return
    if limit < ENOUGH_FILES:
        log.warning("few open files allowed limit=%d tabs=%d", limit, limit // FILES_PER_TAB)


def explain_open_files(error: OSError) -> LMDynoError | None:
    """Return what to tell when the limit is reached; None for other errors."""
    if error.errno not in (errno.EMFILE, errno.ENFILE):
        return None
    return LMDynoError(
        N_("Too many files and connections are open: this system allows {n}.", n=open_files_allowed()),
        hint=N_("Close some browser tabs, or raise the limit: `ulimit -n`, or LimitNOFILE in systemd."),
        code="too-many-open-files",
    )


_TRIM_THRESHOLD, _ARENA_MAX = -1, -8
"""Parameters of glibc's `mallopt`, by their numbers in malloc.h."""
_HEAPS = 2
_KEPT_BYTES = 128 * 1024
"""Freed memory at the end of a heap that isn't given back."""


def keep_heap_small() -> bool:
    """Have all threads share two heaps that give freed memory back; False, and no change, without glibc.

    Heaps that are there already stay, so call it early.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(set_option(_ARENA_MAX, _HEAPS)) and bool(set_option(_TRIM_THRESHOLD, _KEPT_BYTES))


def stop_on_signals() -> "asyncio.Event":
    """An event that SIGTERM or SIGINT sets from now on. In the main thread's running event loop only."""
    import asyncio  # most processes that are set up here do without

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop
