"""A job's results so far, as one JSON file that is rewritten after every step.

So a job that was stopped keeps what it had. Thread-safe; readers see a whole state or none.
"""

from pathlib import Path
from typing import TypeVar

from core.codec import decode, encode
from core.errors import InputError
from core.files import write_atomically
from core.i18n import N_

T = TypeVar("T")


def save_outcome(file: Path, outcome: object) -> None:
    """Replace the stored outcome atomically."""
    write_atomically(file, encode(outcome))


def load_outcome(kind: type[T], file: Path) -> T | None:
    """The outcome so far; None before its first step. Raises InputError (`bad-record`)."""
    try:
        return decode(kind, file.read_bytes())
    except FileNotFoundError:
        return None


def outcome_file(folder: Path, job_id: str, what: str) -> Path:
    """The job's file in the folder; raises InputError for what can't be a job's id, such as a path."""
    if not job_id.isalnum():
        raise InputError(N_("There is no result {id}.", id=job_id), code=f"no-such-{what}")
    return folder / f"{job_id}.json"
