"""`lmdyno walk`: the tutorial's steps, taken on this machine or on a node of the cluster, and timed."""

import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from core import units
from core.cli import context
from core.cli.terminal import error_text, terminal, write_file
from core.codec import encode_plain
from core.domain.runs import RunState
from core.domain.turns import new_id
from core.domain.walk import STATE_NAMES, STEP_TEXTS, StepResult, WalkRun
from core.errors import InputError
from core.i18n import N_, _
from core.jobs.registry import Jobs
from core.settings import Settings
from core.store.run_tables import Walks
from core.walk.job import summary

console = terminal()

_LOOK_S = 0.25


def walk(
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help=_("Model from lanes.toml. Default: the demo model.")),
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help=_("Write the result as JSON."))] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help=_("Write a report as HTML."))] = None,
    node: context.NodeName = None,
) -> None:
    """Run the tutorial's steps and print each one's results and time."""
    from core.walk.job import take_walk  # to look at a walk needs no engines

    settings, _registry = context.load()
    if node is not None:
        run = _walk_on(settings, model, node)
    else:
        with console.status("") as status:
            run = take_walk(
                settings, model, new_id(), lambda stage, _share: status.update(_(stage)), _print_last
            )
    console.print(summary(run))
    console.print(Text(_("Stored as {id}", id=run.id), "dim"))
    if json is not None:
        write_file(json, encode_plain(run))
    if html is not None:
        write_file(html, _html(run))
    if run.failed or run.state is not RunState.DONE:
        raise typer.Exit(1)


def _walk_on(settings: Settings, model: str | None, node: str) -> WalkRun:
    """Have the node take the walk, and print its steps as they come; Ctrl-C cancels it.

    Raises typer.Exit if it ended before its first step.
    """
    from core.walk.job import load, start_walk

    jobs = Jobs(settings)
    job_id = start_walk(settings, model, node=node)
    printed = 0
    with console.status("") as spinner:
        while True:
            try:
                status = jobs.status(job_id)
                run = load(settings, job_id)
                steps = run.steps if run else ()
                for number, step in enumerate(steps[printed:], start=printed + 1):
                    _print_step(number, step)
                printed = len(steps)
                if status.state.ended:
                    break
                spinner.update(_(status.record.stage))
                time.sleep(_LOOK_S)
            except KeyboardInterrupt:
                jobs.cancel(job_id)
    if status.record.error:
        console.print(error_text(status.record.error), highlight=False)
    if run is None or not run.steps:
        raise typer.Exit(1)
    return run


def show(settings: Settings, run_id: str, *, as_json: bool) -> bool:
    """Print a stored walk; False if there is no walk of that id."""
    run = _stored(settings, run_id)
    if run is None:
        return False
    if as_json:
        typer.echo(encode_plain(run))
        return True
    for number, step in enumerate(run.steps, start=1):
        _print_step(number, step)
    console.print(summary(run))
    return True


def export(settings: Settings, run_id: str, out: Path | None, form: str) -> bool:
    """Write a stored walk as JSON or as an HTML report; False if there is no walk of that id."""
    run = _stored(settings, run_id)
    if run is None:
        return False
    if form not in ("json", "html"):
        raise InputError(
            N_("A walk can't be exported as {format}.", format=form), hint=N_("Use --format json or html.")
        )
    content = encode_plain(run) if form == "json" else _html(run)
    if out is not None:
        write_file(out, content)
    else:
        sys.stdout.buffer.write(content)
    return True


def _stored(settings: Settings, run_id: str) -> WalkRun | None:
    with closing(Walks(settings.database_url)) as walks:
        return walks.run(run_id)


def _html(run: WalkRun) -> bytes:
    from core.reports.html import walk_html  # plotly takes its time, and only this needs it

    return walk_html(run).encode()


def _print_last(run: WalkRun) -> None:
    _print_step(len(run.steps), run.steps[-1])


def _print_step(number: int, step: StepResult) -> None:
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
