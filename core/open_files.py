"""The limit of files, sockets and pipes that a process may have open at once.

Each browser tab and each running answer takes some. Many systems allow 1,024 unless a process asks for more,
and then all that comes on top fails.
"""

import errno
import logging
import resource

from core.errors import LMDynoError
from core.i18n import N_

log = logging.getLogger(__name__)

ENOUGH = 4096
"""About 600 tabs."""
FILES_PER_TAB = 6
_MOST = 65_536
"""More is never needed, and some programs that inherit the limit walk through all the numbers below it."""


def allowed() -> int:
    """The limit that `allow_many` reaches, or has reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _MOST
    reachable = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    return max(soft, reachable)


def allow_many() -> None:
    """Raise this process's limit as far as it may, and warn if that isn't far. Children inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = allowed()
    if soft != resource.RLIM_INFINITY and soft < limit:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (OSError, ValueError) as exc:  # macOS has a further limit of its own
            log.warning("open files limit not raised soft=%d hard=%d reason=%s", soft, hard, exc)
            return
    if limit < ENOUGH:
        log.warning("few open files allowed limit=%d tabs=%d", limit, limit // FILES_PER_TAB)


def explained(error: OSError) -> LMDynoError | None:
    """Return what to tell when the limit is reached; None for other errors."""
    if error.errno not in (errno.EMFILE, errno.ENFILE):
        return None
    return LMDynoError(
        N_("Too many files and connections are open: this system allows {n}.", n=allowed()),
        hint=N_("Close some browser tabs, or raise the limit: `ulimit -n`, or LimitNOFILE in systemd."),
        code="too-many-open-files",
    )
