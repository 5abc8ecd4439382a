"""What kills have in common: a home folder, waiting, counting what is lost and what is left over."""

import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from core.domain.turns import RequestRecord
from core.settings import Settings

PATIENCE_S = 60.0
_OTHERS = ("tests.scripted_server", "chrom", "playwright", "markdown_page")
"""In the command lines of what a run starts that isn't LMDyno's."""


@dataclass
class Outcome:
    """What came of the kills of one kind, or of one of them."""

    kills: int = 0
    shown_tokens: int = 0
    """For load tests: stored requests."""
    lost_tokens: int = 0
    """Shown to a follower or stored, and not in the store once all is settled."""
    orphans: int = 0
    foreign: list[str] = field(default_factory=list)
    """What a browser asked of other servers than its dashboard."""
    exceptions: list[str] = field(default_factory=list)
    settled_s: list[float] = field(default_factory=list)
    """From each kill until the store said how the work had ended."""
    codes: Counter[str] = field(default_factory=Counter)
    """Of the errors that the store names."""

    def settle(self, killed_s: float, shown: str, record: RequestRecord | None) -> None:
        self.settled_s.append(time.monotonic() - killed_s)
        self.compare(shown.split(), record.text.split() if record else [])
        if record is not None and record.error is not None:
            self.codes[record.error.code] += 1

    def compare(self, shown: list[str], kept: list[str]) -> None:
        """Count the words that were shown and do not stand in the same place of what is kept."""
        self.shown_tokens += len(shown)
        # The last word may have been cut where the piece that was shown ended.
        last = len(shown) - 1
        self.lost_tokens += sum(
            place >= len(kept) or (not kept[place].startswith(word) if place == last else kept[place] != word)
            for place, word in enumerate(shown)
        )


@contextmanager
def home_folder() -> Iterator[Settings]:
    """A home, and beside it the folder for temporary files of all processes that are started meanwhile."""
    before = tempfile.tempdir, os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory(prefix="lmdyno-chaos-", ignore_cleanup_errors=True) as name:
        home, passing = Path(name) / "home", Path(name) / "tmp"
        home.mkdir()
        passing.mkdir()
        tempfile.tempdir = os.environ["TMPDIR"] = str(passing)
        try:
            yield Settings(
                home=home, lanes_file=home / "lanes.toml", database_url=f"sqlite:///{home / 'lmdyno.db'}"
            )
        finally:
            tempfile.tempdir = before[0]
            if before[1] is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before[1]


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not settle")
        time.sleep(0.05)


def started_in(folder: Path) -> list[psutil.Process]:
    """All processes but this one whose folder for temporary files is below that one, or that name it."""
    place = str(folder)
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            inside = process.environ().get("TMPDIR", "").startswith(place)
            if inside or any(place in part for part in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _is_ours(process: psutil.Process) -> bool:
    """Whether it is LMDyno's and not what the run itself needs."""
    try:
        return not any(name in part for part in process.cmdline() for name in _OTHERS)
    except psutil.Error:
        return False


def leave(outcome: Outcome, settings: Settings) -> None:
    """Count what is left of LMDyno once all is settled, and end it; processes get a while to end."""
    around = settings.home.parent
    deadline = time.monotonic() + PATIENCE_S
    while (left := list(filter(_is_ours, started_in(around)))) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in left:
        outcome.exceptions.append(f"left running: {' '.join(process.cmdline())[:200]}")
        process.kill()
    outcome.orphans += len(left)
    folders = [path.name for path in (around / "tmp").iterdir() if path.name.startswith("lmdyno-")]
    outcome.exceptions += [f"left behind: the folder {name}" for name in folders]
