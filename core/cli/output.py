"""Files that a command writes where it is told to."""

from pathlib import Path

from core.errors import InputError


def write_file(path: Path, content: bytes) -> None:
    """Write a whole file; raises InputError where that can't be done."""
    try:
        path.expanduser().write_bytes(content)
    except OSError as exc:
        raise InputError(
            f"{path} can't be written: {exc.strerror}", hint="Name a file in a folder that you can write to."
        ) from exc
