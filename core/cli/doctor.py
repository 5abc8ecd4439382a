"""`doctor`: what this machine has, which lanes can run on it, and what to do about the others."""

import typer
from rich.table import Table
from rich.text import Text

from core.cli import context
from core.cli.terminal import terminal
from core.cluster.findings import examine_all
from core.codec import encode_plain
from core.doctor import Diagnosis, Status
from core.i18n import N_, _

output = terminal()
progress = terminal(stderr=True)

_MARKS = {
    Status.OK: (N_("ok"), "green"),
    Status.INFO: (N_("info"), "blue"),
    Status.WARN: (N_("warning"), "yellow"),
    Status.FAIL: (N_("error"), "bold red"),
}


def doctor(
    as_json: context.AsJson = False,
) -> None:
    """Examine the machine and print a finding per line."""
    settings, registry = context.load()
    with progress.status(_("Importing the engines in child processes")):
        diagnosis = examine_all(settings, registry)
    if as_json:
        typer.echo(encode_plain(_document(diagnosis)))
    else:
        output.print(_table(diagnosis))
    if diagnosis.failed:
        raise typer.Exit(1)


def _document(diagnosis: Diagnosis) -> dict[str, object]:
    return {
        "findings": [
            {
                "status": finding.status,
                "what": finding.subject,
                "detail": finding.detail,
                "remedy": finding.remedy,
            }
            for finding in diagnosis.findings
        ],
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
        mark, style = _MARKS[finding.status]
        table.add_row(Text(_(mark), style), _(finding.subject), detail)
    return table
