"""`runs` and `record`: turns, load tests and quality runs that were measured, and how to record them."""

import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from core import units
from core.access.guard import Action, authorise
from core.bench.passes import with_images
from core.bench.results.comparison import compare as compare_results
from core.bench.results.comparison import comparison_json
from core.bench.results.definitions import Tool
from core.bench.results.result import results
from core.bench.results.tables import points_table, queueing_table
from core.cli import context
from core.cli import quality as quality_runs
from core.cli import walk as walks
from core.cli.bench import comparison_table, difference_table, print_remarks, result_table
from core.cli.terminal import terminal, write_file
from core.codec import encode_plain
from core.domain.runs import BenchRecord, HistoryFilter, RunKind
from core.domain.turns import TurnRecord
from core.errors import InputError, StoreError
from core.i18n import N_, _
from core.replay import recording
from core.replay.recording import collect, paths_of
from core.reports.run_json import bench_to_json
from core.reports.run_json import import_run as take_in
from core.settings import load_settings
from core.store.history import History
from core.store.run_tables import JobResults
from core.store.runs import BenchRuns, QualityRuns
from core.store.turns import Store

app = typer.Typer(no_args_is_help=True)
console = terminal()

RunId = Annotated[str, typer.Argument(help=_("ID of the run, as `runs list` shows it."))]


class Format(StrEnum):
    JSON = "json"
    CSV = "csv"
    PARQUET = "parquet"
    HTML = "html"


@app.command("list", help=_("List turns and runs, newest first."))
def list_runs(
    kind: Annotated[RunKind | None, typer.Option(help=_("Only entries of this kind."))] = None,
    lane: Annotated[str | None, typer.Option(help=_("Only entries with this lane."))] = None,
    model: Annotated[str | None, typer.Option(help=_("Only entries with this model."))] = None,
    tag: Annotated[str | None, typer.Option(help=_("Only entries with this tag."))] = None,
    text: Annotated[str, typer.Option(help=_("Only entries with this text in prompt, title, or note."))] = "",
    limit: Annotated[int, typer.Option(help=_("Maximum number of entries."))] = 20,
    as_json: context.AsJson = False,
) -> None:
    settings = context.load()[0]
    chosen = HistoryFilter(kind=kind, lane=lane, model=model, tag=tag, text=text)
    with closing(History(settings.database_url)) as history:
        entries = history.entries(chosen, limit=limit)
    if as_json:
        typer.echo(encode_plain(entries))
        return
    table = Table(_("ID"), _("Kind"), _("Date (UTC)"), _("Lanes"), _("State"), _("Title"), _("Tag"))
    for entry in entries:
        table.add_row(
            entry.id,
            entry.kind,
            f"{entry.created_at:%Y-%m-%d %H:%M}",
            ", ".join(entry.lanes),
            _(entry.state),
            entry.title[:60],
            entry.tag,
        )
    console.print(table)


@app.command(help=_("Show the results of a run."))
def show(
    run: RunId,
    definition: Annotated[
        Tool, typer.Option(help=_("The tool whose metric definitions are used."))
    ] = Tool.LMDYNO,
    as_json: context.AsJson = False,
) -> None:
    settings = context.load()[0]
    if quality_runs.show(settings, run, as_json=as_json) or walks.show(settings, run, as_json=as_json):
        return
    if (facts := _job_result(settings.database_url, run)) is not None:
        typer.echo(facts)
        return
    with closing(BenchRuns(settings.database_url)) as runs:
        record = runs.record(run) if runs.run(run) else None
    if record is None:
        _show_turn(_turn(settings.database_url, run), as_json=as_json)
        return
    result = results(record, definition)
    if as_json:
        typer.echo(bench_to_json(result, record, raw=False))
        return
    state = _(result.run.state)
    if result.run.imported:
        state += f" · {_('imported')}"
    console.print(f"{result.run.title} · {result.run.created_at:%Y-%m-%d %H:%M} UTC · {state}")
    console.print(result_table(points_table(result), _(with_images(result.plan.workload))))
    if (queueing := queueing_table(result)) is not None:
        console.print(result_table(queueing))
    print_remarks(console, result)


@app.command(help=_("Compare runs side by side, with percentage differences from a baseline."))
def compare(
    run: Annotated[list[str], typer.Argument(help=_("IDs of two to six runs."))],
    baseline: Annotated[
        str | None, typer.Option(help=_("The run to compare with. Default: the first one."))
    ] = None,
    as_json: context.AsJson = False,
) -> None:
    settings = context.load()[0]
    if baseline is not None and baseline not in run:
        raise InputError(
            N_("The baseline {id} isn't one of the runs.", id=baseline),
            hint=N_("Choose one of the runs that you compare."),
        )
    if quality_runs.compare_runs(settings, list(dict.fromkeys(run)), as_json=as_json):
        return
    with closing(BenchRuns(settings.database_url)) as runs:
        compared = [results(runs.record(run_id)) for run_id in dict.fromkeys(run)]
    ids = list(dict.fromkeys(run))
    comparison = compare_results(compared, ids.index(baseline) if baseline else 0)
    if as_json:
        typer.echo(encode_plain(comparison_json(comparison)))
        return
    for warning in comparison.warnings:
        console.print(_(warning), style="yellow")
    console.print(comparison_table(comparison))
    if comparison.settings or comparison.environment:
        console.print(difference_table(comparison))


@app.command(
    help=_(
        "Export a run: JSON that can be imported, CSV or Parquet with one row per request, or an HTML report."
    )
)
def export(
    run: RunId,
    out: Annotated[Path | None, typer.Option(help=_("Output file. Default: stdout."))] = None,
    to: Annotated[
        Format | None,
        typer.Option("--format", help=_("Output format. Default: by the file's extension, else json.")),
    ] = None,
) -> None:
    settings = context.load()[0]
    chosen = to or _format_of(out)
    if chosen is Format.PARQUET and out is None and sys.stdout.isatty():
        raise InputError(
            N_("Parquet is binary and can't be printed to a terminal."),
            hint=N_("Name a file: --out run.parquet"),
        )
    if quality_runs.export(settings, run, out, chosen) or walks.export(settings, run, out, chosen):
        return
    if (facts := _job_result(settings.database_url, run)) is not None:
        if chosen is not Format.JSON:
            raise InputError(
                N_("Quizzes and memory sweeps can be exported only as JSON."), hint=N_("Use --format json.")
            )
        _write(out, facts.encode())
        return
    with closing(BenchRuns(settings.database_url)) as runs:
        record = runs.record(run)
    _write(out, _WRITERS[chosen](record))


@app.command("import", help=_("Import a run that was measured on another machine."))
def import_run(
    file: Annotated[
        Path, typer.Argument(help=_("JSON file written by `runs export` or `bench --raw --json`."))
    ],
) -> None:
    settings = context.load()[0]
    try:
        opened = file.expanduser().open("rb")
    except OSError as exc:
        raise InputError(
            N_("{file} can't be read: {reason}", file=file, reason=exc.strerror),
            hint=N_("Check the path and its permissions."),
        ) from exc
    with (
        opened,
        closing(BenchRuns(settings.database_url)) as bench_runs,
        closing(QualityRuns(settings.database_url)) as compared_runs,
        closing(History(settings.database_url)) as history,
    ):
        imported = take_in(opened, bench_runs, compared_runs)
        run = imported.run
        if not imported.is_new:
            raise StoreError(
                N_("Benchmark run {id} already exists.", id=run.id),
                hint=N_("To see it, run `lmdyno runs show {id}`.", id=run.id),
                code="run-exists",
            )
        history.annotate(imported.kind, run.id, note=run.note, tag=run.tag)
    console.print(_("Imported {id}: {title}", id=run.id, title=run.title))


def _write(out: Path | None, content: bytes) -> None:
    if out is not None:
        write_file(out, content)
    else:
        sys.stdout.buffer.write(content)


def _job_result(database_url: str, run_id: str) -> str | None:
    """A quiz or memory sweep as JSON; None if the id is of neither."""
    with closing(JobResults(database_url)) as results_of_jobs:
        stored = (results_of_jobs.facts(kind, run_id) for kind in (RunKind.QUIZ, RunKind.SWEEP))
        return next((facts for facts in stored if facts is not None), None)


def _turn(database_url: str, run_id: str) -> TurnRecord:
    with closing(Store(database_url)) as store:
        turn = store.turn(run_id)
    if turn is None:
        raise InputError(
            N_("There is no run {id}.", id=run_id), hint=N_("To list all runs, run `lmdyno runs list`.")
        )
    return turn


def _show_turn(turn: TurnRecord, *, as_json: bool) -> None:
    if as_json:
        typer.echo(encode_plain(turn))
        return
    console.print(turn.prompt)
    table = Table(_("Lane"), "TTFT", _("Decode"), "E2E", _("Tokens out"), _("Finish reason"))
    for request in turn.requests:
        table.add_row(
            request.lane.name,
            units.milliseconds(request.ttft_s),
            units.tok_per_s(request.decode_tok_per_s),
            units.milliseconds(request.e2e_s),
            units.count(request.output_tokens),
            request.finish_reason or units.UNKNOWN,
        )
    console.print(table)


def _format_of(out: Path | None) -> Format:
    suffix = out.suffix.lstrip(".").lower() if out else ""
    return Format(suffix) if suffix in tuple(Format) else Format.JSON


def _json(record: BenchRecord) -> bytes:
    return bench_to_json(results(record), record, raw=True)


def _csv(record: BenchRecord) -> bytes:
    from core.reports.tables import requests_csv

    return requests_csv(record).encode()


def _parquet(record: BenchRecord) -> bytes:
    from core.reports.tables import requests_parquet

    return requests_parquet(record)


def _html(record: BenchRecord) -> bytes:
    from core.reports.html import report_html

    return report_html(results(record), record).encode()


_WRITERS: Mapping[Format, Callable[[BenchRecord], bytes]] = {
    Format.JSON: _json,
    Format.CSV: _csv,
    Format.PARQUET: _parquet,
    Format.HTML: _html,
}


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
