"""Output of `bench` after the measurement, and tables of benchmark runs for a terminal."""

import sys
from contextlib import closing
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from core import units
from core.bench.bandwidth import BandwidthUtilisation, measured_bandwidth, utilisations
from core.bench.passes import with_images
from core.bench.results import tables as result_tables
from core.bench.results.comparison import FIGURES, MORE_IS_BETTER, Comparison, figure_text
from core.bench.results.result import BenchResult, results
from core.bench.results.tables import points_table, queueing_table, remarks
from core.cli.terminal import terminal, write_file
from core.i18n import _
from core.reports.run_json import to_json
from core.settings import Settings
from core.store.runs import BenchRuns

_STYLES = {result_tables.Tone.PLAIN: "", result_tables.Tone.FAINT: "dim", result_tables.Tone.BAD: "red"}
console = terminal()


def result_table(table: result_tables.Table, caption: str = "") -> Table:
    """A table of a result for a terminal, each p95 below its p50 to fit 80 columns."""
    notes = "\n".join(filter(None, (caption, *table.notes)))
    drawn = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=notes or None, caption_justify="left")
    below = {place for place in range(1, len(table.head)) if _belongs_below(table, place)}
    for place, name in enumerate(table.head):
        if place not in below:
            texts = [row.lane_text if place == 0 else row.cells[place - 1].text for row in table.rows]
            drawn.add_column(
                f"{name}\np95" if place + 1 in below else name,
                justify="left" if place < table.words else "right",
                min_width=max(map(len, texts), default=0) if place else None,
            )
    for row in table.rows:
        cells = [Text(row.lane_text), *(Text(cell.text, _STYLES[cell.tone]) for cell in row.cells)]
        drawn.add_row(
            *(
                Text("\n").join((cell, cells[place + 1])) if place + 1 in below else cell
                for place, cell in enumerate(cells)
                if place not in below
            )
        )
    return drawn


def _belongs_below(table: result_tables.Table, place: int) -> bool:
    return table.head[place] == "p95" and table.head[place - 1].endswith("p50")


def print_remarks(console: Console, result: BenchResult) -> None:
    """Print the verdict, warnings and notes of a run; texts of servers are never read as markup."""
    said = remarks(result)
    for lines, style in ((said.verdict, "bold"), (said.warnings, "yellow"), (said.notes, "dim")):
        for line in lines:
            console.print(Text(line, style))


def utilisation_text(utilisation: BandwidthUtilisation) -> str:
    """Return how close a lane came to the limit that memory bandwidth sets."""
    return _(
        "{lane} decodes at {share} of what memory bandwidth allows (limit: {limit}, bandwidth {source}).",
        lane=utilisation.lane,
        share=f"{utilisation.share:.0%}",
        limit=units.tok_per_s(utilisation.limit.decode_tok_per_s),
        source=utilisation.bandwidth_source,
    )


def comparison_table(comparison: Comparison) -> Table:
    """A row a figure and a point that several runs have; differences to the baseline in per cent."""
    table = Table(_("Lane"), _("Load"), _("Metric"))
    for place, result in enumerate(comparison.runs):
        name = f"{result.run.title}\n{result.run.id}"
        head = f"{name}\n{_('baseline')}" if place == comparison.baseline else name
        table.add_column(head, justify="right")
    shared = [
        compared for compared in comparison.points if sum(point is not None for point in compared.points) > 1
    ]
    for compared in shared:
        lane = " / ".join(dict.fromkeys(name for name in compared.lanes if name))
        lane += " +" if compared.together else ""
        for figure in FIGURES:
            values = compared.values(figure)
            if all(value is None for value in values):
                continue
            changes = compared.change_ratios(figure, comparison.baseline)
            cells = [
                _changed(figure, value, None if place == comparison.baseline else change)
                for place, (value, change) in enumerate(zip(values, changes, strict=True))
            ]
            table.add_row(lane, _(compared.level.label), figure, *cells)
    return table


def difference_table(comparison: Comparison) -> Table:
    """Other differences, one row each."""
    table = Table(_("Setting"), *(result.run.id for result in comparison.runs))
    for difference in (*comparison.settings, *comparison.environment):
        table.add_row(difference.path, *difference.values)
    return table


def _changed(figure: str, value: float | None, change_ratio: float | None) -> Text:
    text = Text(figure_text(figure, value))
    if change_ratio is None:
        return text
    better = (change_ratio > 0) == (figure in MORE_IS_BETTER)
    colour = "green" if better else "red"
    return text.append(" ").append(f"{change_ratio:+.1%}", colour)


def tell(settings: Settings, run_id: str, *, json: str | None, raw: bool, html: Path | None) -> int:
    """Print the run as a table, or as JSON if `json` is "-", write its files, and return what failed."""
    with closing(BenchRuns(settings.database_url)) as runs:
        record = runs.record(run_id)
    result = results(record)
    document = to_json(result, record, raw=raw) if json is not None else b""
    if json == "-":
        sys.stdout.buffer.write(document + b"\n")
    else:
        console.print(result_table(points_table(result), _(with_images(result.plan.workload))))
        if (queueing := queueing_table(result)) is not None:
            console.print(result_table(queueing))
        print_remarks(console, result)
        for utilisation in utilisations(result, record.passes, lambda gpu: measured_bandwidth(settings, gpu)):
            console.print(utilisation_text(utilisation))
        console.print(_("Stored as {run}", run=run_id), style="dim")
        if json is not None:
            write_file(Path(json), document)
    if html is not None:
        # plotly takes its time, and only this needs it.
        from core.reports.html import report_html

        write_file(html, report_html(result, record).encode())
    return result.failed
