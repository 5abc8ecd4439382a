"""`lmdyno walk`: the tutorial's steps, taken on this machine and timed."""

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from core import units
from core.cli import context
from core.cli.output import write_file
from core.cli.terminal import terminal
from core.codec import encode_plain
from core.domain.turns import new_id
from core.domain.walk import WalkRun
from core.i18n import _
from core.walk.job import take_walk
from core.walk.runner import summary
from core.walk.wording import STATE_NAMES, STEP_TEXTS

console = terminal()


def walk(
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=_("Model from lanes.toml. Default: the demo model.")),
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help=_("Write the result as JSON."))] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help=_("Write a report as HTML."))] = None,
) -> None:
    """Run the tutorial's steps and print each one's results and time."""
    settings, _registry = context.load()
    with console.status("") as status:
        run = take_walk(settings, model, new_id(), lambda stage, _share: status.update(_(stage)), _print_step)
    console.print(summary(run))
    console.print(Text(_("Stored as {id}", id=run.id), "dim"))
    if json is not None:
        write_file(json, encode_plain(run))
    if html is not None:
        from core.reports.walk_html import walk_html  # plotly takes its time, and only this needs it

        write_file(html, walk_html(run).encode())
    if run.failed:
        raise typer.Exit(1)


def _print_step(run: WalkRun) -> None:
    """The step that was taken last."""
    step, number = run.steps[-1], len(run.steps)
    title = _("{number}. {step}", number=number, step=_(STEP_TEXTS[step.kind].title))
    console.print(
        Text.assemble((title, "bold"), f" · {_(STATE_NAMES[step.state])} · {units.duration(step.duration_s)}")
    )
    for line in (*step.notes, *((step.reason,) if step.reason else ())):
        console.print(Text(f"   {_(line)}"))
    if step.error:
        console.print(Text(f"   {_(step.error.message)} {_(step.error.hint)}", "red"))
    if step.figures:
        table = Table(box=box.SIMPLE, show_header=False, padding=(0, 1, 0, 3))
        table.add_column()
        table.add_column(justify="right")
        for figure in step.figures:
            table.add_row(Text(_(figure.label)), figure.text)
        console.print(table)
