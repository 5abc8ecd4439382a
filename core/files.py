"""Files of a home that processes share: for their owner alone, replaced as a whole, and locked.

Folders have mode 700 and files mode 600, whatever the umask is. Locks between processes and threads are
kept by the kernel: they end with their holder, also by `kill -9`.
"""

import fcntl
import hashlib
import logging
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_UNFIT = re.compile(r"[^A-Za-z0-9._-]+")
_NAME_CHARS = 80
_OWNER_ALONE = 0o077
_USUAL_UMASK = "LMDYNO_USUAL_UMASK"

log = logging.getLogger(__name__)


def keep_to_oneself() -> None:
    """Make everything that this process and its children create private to their owner."""
    before = os.umask(_OWNER_ALONE)
    os.environ.setdefault(_USUAL_UMASK, f"{before:o}")


def usual_umask() -> int:
    """The umask before `keep_to_oneself`: for engines, and for files outside the home folder."""
    return int(os.environ.get(_USUAL_UMASK, "22"), 8)


def close_to_others(home: Path) -> None:
    """Make a home folder private to its owner, with what earlier versions left readable in it.

    Links are not followed. What belongs to somebody else stays as it is, with a warning.
    """
    private_folder(home)
    for folder, _names, files in os.walk(home):
        for path in (folder, *(os.path.join(folder, name) for name in files)):  # noqa: PTH118 - thousands
            mode = os.lstat(path).st_mode
            if mode & _OWNER_ALONE and not stat.S_ISLNK(mode):
                try:
                    os.chmod(path, stat.S_IMODE(mode) & ~_OWNER_ALONE)  # noqa: PTH101
                except PermissionError:
                    log.warning("open to others path=%s", path)


def private_folder(folder: Path) -> Path:
    """Make the folder, and those above it that are missing, for its owner alone; return it."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
    return folder


def write_private(path: Path, data: bytes) -> None:
    """Write a file that nobody else can read; its folder is made if it is missing."""
    private_folder(path.parent)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(file.fileno(), 0o600)  # the file may be older than this rule
        file.write(data)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file as a whole, for its owner alone; its folder is made if it is missing.

    Readers see the old or the new content, also after a crash of this process. Safe for several threads and
    processes; the last one wins.
    """
    private_folder(path.parent)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def upload_path(folder: Path, name: str, data: bytes, *, nameless: str) -> Path:
    """Return where `keep_upload` keeps these bytes.

    `name` is what a person called them: its ending says how they are read, and nothing else of it reaches the
    disk but letters, digits, dots and dashes. `nameless` stands in where that leaves nothing.
    """
    fitting = _UNFIT.sub("-", Path(name).name)[-_NAME_CHARS:].lstrip(".-") or nameless
    return folder / hashlib.sha256(data).hexdigest()[:16] / fitting


def keep_upload(folder: Path, name: str, data: bytes, *, nameless: str) -> Path:
    """Keep what somebody uploaded below `folder`, and return its path; the same bytes are kept once."""
    path = upload_path(folder, name, data, nameless=nameless)
    write_private(path, data)
    return path


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
