"""`doctor`: what this machine has, which lanes can run on it, and what to do about the others."""

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from core.cli import context
from core.codec import encode_plain
from core.doctor import Diagnosis, Status, examine
from core.i18n import N_, _

output = Console(highlight=False)
progress = Console(stderr=True)

_MARKS = {
    Status.OK: N_("[green]ok[/]"),
    Status.INFO: N_("[blue]info[/]"),
    Status.WARN: N_("[yellow]warning[/]"),
    Status.FAIL: N_("[bold red]error[/]"),
}


def doctor(
    as_json: context.AsJson = False,
) -> None:
    """Examine the machine and print a finding per line."""
    settings, registry = context.load()
    with progress.status(_("Importing the engines in child processes")):
        diagnosis = examine(settings, registry)
    if as_json:
        typer.echo(encode_plain(_document(diagnosis)))
    else:
        output.print(_table(diagnosis))
    if diagnosis.failed:
        raise typer.Exit(1)


def _document(diagnosis: Diagnosis) -> dict[str, object]:
    return {
        "findings": diagnosis.findings,
        "lanes": [
            {
                "name": lane.name,
                "can_run": lane.can_run,
                "reason": lane.reason.message if lane.reason else None,
                "hint": lane.reason.hint if lane.reason else None,
            }
            for lane in diagnosis.lanes
        ],
        "machine": diagnosis.machine,
    }


def _table(diagnosis: Diagnosis) -> Table:
    table = Table("", _("Check"), _("Result"))
    for finding in diagnosis.findings:
        detail = _(finding.detail)
        if finding.remedy:
            detail += f"\n→ {_(finding.remedy)}"
        # Hints name tables such as [models.NAME], which rich would take for its own markup.
        table.add_row(_(_MARKS[finding.status]), escape(_(finding.what)), escape(detail))
    return table
