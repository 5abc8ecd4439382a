"""What kills have in common: a home folder, waiting, counting what is lost and what is left over."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from core.domain.turns import RequestRecord
from core.settings import Settings

PATIENCE_S = 60.0
_OTHERS = ("tests.scripted_server", "chrom", "playwright")
"""In the command lines of what a run starts that isn't LMDyno's."""


@dataclass
class Outcome:
    """What came of the kills of one kind."""

    kills: int = 0
    shown_tokens: int = 0
    lost_tokens: int = 0
    """Shown to a follower, and not in the store once all is settled."""
    orphans: int = 0
    exceptions: list[str] = field(default_factory=list)
    settled_s: list[float] = field(default_factory=list)
    """From each kill until the store said how the work had ended."""
    codes: set[str] = field(default_factory=set)

    def settle(self, killed_s: float, shown: str, record: RequestRecord | None) -> None:
        self.settled_s.append(time.monotonic() - killed_s)
        kept = record.text if record else ""
        self.shown_tokens += len(shown.split())
        self.lost_tokens += 0 if kept.startswith(shown) else max(1, len(shown.split()) - len(kept.split()))
        if record is not None and record.error is not None:
            self.codes.add(record.error.code)


@contextmanager
def home_folder() -> Iterator[Settings]:
    with tempfile.TemporaryDirectory(prefix="lmdyno-chaos-", ignore_cleanup_errors=True) as name:
        home = Path(name)
        yield Settings(
            home=home, lanes_file=home / "lanes.toml", database_url=f"sqlite:///{home / 'lmdyno.db'}"
        )


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not settle")
        time.sleep(0.05)


def _is_ours(process: psutil.Process) -> bool:
    """Whether it still runs and is LMDyno's, not this one or what the run itself needs."""
    try:
        if process.status() == psutil.STATUS_ZOMBIE or process.pid == os.getpid():
            return False
        return not any(name in part for part in process.cmdline() for name in _OTHERS)
    except psutil.Error:
        return False


def left_over(home: Path) -> int:
    """Processes that name the home folder or were started for it; they get a while to end."""

    def found() -> list[psutil.Process]:
        own = psutil.Process().children(recursive=True)
        named = [
            process
            for process in psutil.process_iter(["cmdline"])
            if any(str(home) in part for part in process.info["cmdline"] or ())
        ]
        return [process for process in {*own, *named} if _is_ours(process)]

    deadline = time.monotonic() + PATIENCE_S
    while (left := found()) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in left:
        process.kill()
    return len(left)
