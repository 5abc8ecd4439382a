"""Keep a walk as a JSON file under `home/walks/`, written anew after every step, so that one that was stopped
keeps what it had.
"""

from collections.abc import Sequence
from pathlib import Path

from core.domain.walk import WalkRun
from core.jobs.records import load_outcome, outcome_file, save_outcome
from core.settings import Settings


def save(settings: Settings, run: WalkRun) -> None:
    """Write the walk in place of an earlier state of it, whole or not at all."""
    save_outcome(run_file(settings, run.id), run)


def load(settings: Settings, walk_id: str) -> WalkRun | None:
    """The walk so far; None before its first step. Raises InputError (`bad-record`)."""
    return load_outcome(WalkRun, run_file(settings, walk_id))


def run_file(settings: Settings, walk_id: str) -> Path:
    return outcome_file(settings.home / "walks", walk_id, "walk")


def latest(settings: Settings, limit: int = 10) -> Sequence[WalkRun]:
    """The newest walks; a file that can't be read is left out."""
    files = sorted(
        (settings.home / "walks").glob("*.json"), key=lambda file: file.stat().st_mtime, reverse=True
    )
    runs = []
    for file in files[:limit]:
        run = load(settings, file.stem)
        if run is not None:
            runs.append(run)
    return runs
