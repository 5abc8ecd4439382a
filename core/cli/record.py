"""`record`: stored entries as one small file that can be replayed elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from core import units
from core.access.guard import Action, authorise
from core.cli.terminal import terminal
from core.i18n import _
from core.replay import recording
from core.replay.collecting import collect, paths_of
from core.settings import load_settings

console = terminal()


def record(
    file: Annotated[Path, typer.Argument(help=_("Output file, such as h200.json.xz."))],
    entry: Annotated[
        list[str] | None,
        typer.Argument(help=_("IDs of turns, conversations, runs, and sessions, in the order to show them.")),
    ] = None,
    walk: Annotated[
        str | None,
        typer.Option(
            metavar="ID", help=_("A walk: the ID that `walk` printed, or the file it wrote with --json.")
        ),
    ] = None,
    title: Annotated[str, typer.Option(help=_("Title of the recording."))] = "",
) -> None:
    """Write stored entries to a recording."""
    settings = load_settings()
    authorise(Action.EXPORT, f"recording {file.name}")
    collected = collect(settings, entry or [], walk=walk, title=title)
    size_bytes = recording.write(collected, file.expanduser(), paths=paths_of(settings))
    parts = (
        ("turns", len(collected.turns)),
        ("runs", len(collected.runs)),
        ("quality", len(collected.quality)),
        ("sessions", len(collected.sessions)),
        ("walk", int(collected.walk is not None)),
    )
    held = ", ".join(f"{name} {n}" for name, n in parts if n)
    size = _("{n} kB", n=units.count(round(size_bytes / 1000)))
    console.print(_("{file}: {size} ({contents})", file=file.name, size=size, contents=held))
