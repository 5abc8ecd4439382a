"""What `bench` prints and writes after the measurement."""

import sys
from contextlib import closing
from pathlib import Path

from core.bench.planning.wording import with_images
from core.bench.results.result import results
from core.bench.results.tables import points_table, queueing_table
from core.bench.roofline.bandwidth import measured_bandwidth
from core.bench.roofline.utilisation import utilisations
from core.cli.bench.tables import print_remarks, result_table, utilisation_text
from core.cli.output import write_file
from core.cli.terminal import terminal
from core.i18n import _
from core.reports.run_json import to_json
from core.settings import Settings
from core.store.runs.bench_runs import BenchRuns

console = terminal()


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
        from core.reports.run_html import report_html

        write_file(html, report_html(result, record).encode())
    return result.failed
