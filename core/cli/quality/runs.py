"""What `runs` does with quality runs; every function says whether the runs are quality runs at all."""

import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import typer
from rich.table import Table

from core import units
from core.cli.output import write_file
from core.cli.quality.tables import lane_table, lines
from core.cli.terminal import terminal
from core.codec import encode_plain
from core.domain.quality import QualityRecord
from core.errors import InputError
from core.i18n import N_, _
from core.quality.comparison import MAX_RUNS, QualityComparison, compare, figures
from core.quality.results import results
from core.reports.quality_json import to_json
from core.settings import Settings
from core.store.runs.quality_runs import QualityRuns

console = terminal()


def show(settings: Settings, run_id: str, *, as_json: bool) -> bool:
    record = _record(settings, run_id)
    if record is None:
        return False
    result = results(record)
    if as_json:
        typer.echo(to_json(result, record, raw=False))
        return True
    console.print(f"{result.run.title} · {result.run.created_at:%Y-%m-%d %H:%M} UTC · {result.run.state}")
    console.print(lane_table(result))
    for line in lines(result):
        console.print(line)
    return True


def export(settings: Settings, run_id: str, out: Path | None, form: str) -> bool:
    record = _record(settings, run_id)
    if record is None:
        return False
    content = _written(record, form)
    if out is not None:
        write_file(out, content)
    else:
        sys.stdout.buffer.write(content)
    return True


def compare_runs(settings: Settings, run_ids: Sequence[str], *, as_json: bool) -> bool:
    stored = [_record(settings, run_id) for run_id in run_ids]
    records = [record for record in stored if record is not None]
    if not records:
        return False
    if len(records) < len(stored) or not 2 <= len(records) <= MAX_RUNS:
        raise InputError(
            N_("You can compare two to {n} runs of the same kind.", n=MAX_RUNS),
            hint=N_("Choose only quality runs, or only benchmark runs."),
        )
    comparison = compare([results(record) for record in records])
    if as_json:
        typer.echo(encode_plain(_comparison_json(comparison)))
        return True
    for warning in comparison.warnings:
        console.print(_(warning), style="yellow")
    console.print(_comparison_table(comparison))
    return True


def _record(settings: Settings, run_id: str) -> QualityRecord | None:
    with closing(QualityRuns(settings.database_url)) as runs:
        return runs.record(run_id) if runs.run(run_id) else None


def _written(record: QualityRecord, form: str) -> bytes:
    if form == "html":
        # plotly takes its time, and only this needs it.
        from core.reports.quality_html import report_html

        return report_html(results(record), record).encode()
    if form == "json":
        return to_json(results(record), record, raw=True)
    from core.reports.quality_table import to_csv, to_parquet

    return to_csv(record).encode() if form == "csv" else to_parquet(record)


def _comparison_json(comparison: QualityComparison) -> dict[str, object]:
    return {
        "runs": [{"id": run.run.id, "title": run.run.title} for run in comparison.runs],
        "warnings": [str(warning) for warning in comparison.warnings],
        "lanes": [
            {"lane": row.name, "runs": [figures(lane) if lane else None for lane in row.lanes]}
            for row in comparison.lanes
        ],
    }


def _comparison_table(comparison: QualityComparison) -> Table:
    table = Table(_("lane"), _("metric"), *(run.run.title[:30] for run in comparison.runs))
    for row in comparison.lanes:
        known = [figures(lane) if lane else {} for lane in row.lanes]
        names = dict.fromkeys(name for each in known for name in each)
        for place, name in enumerate(names):
            cells = [_cell(name, each.get(name)) for each in known]
            table.add_row("" if place else row.name, name, *cells)
    return table


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return units.UNKNOWN
    if name.endswith("_ratio"):
        return units.share(value)
    if name.endswith("_bytes"):
        return units.gib(value)
    return f"{value:.4g}"
