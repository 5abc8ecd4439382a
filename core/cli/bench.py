"""`bench`: a load test from the command line, in this process, and the tables of load tests for a terminal.

The run is stored like those of the dashboard.
"""

import math
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from core import units
from core.bench.bandwidth import BandwidthUtilisation, measured_bandwidth, utilisations
from core.bench.passes import Preset, estimated_s, preset_plan, with_images
from core.bench.plan import (
    MAX_WORKLOAD_IMAGES,
    Arrivals,
    BenchPlan,
    Isolation,
    Limits,
    Load,
    LoadKind,
    PromptKind,
    SendFrom,
    Workload,
    parse_limits,
    parse_numbers,
    parse_whole_numbers,
)
from core.bench.prompt_files import prompt_kind
from core.bench.results import tables as result_tables
from core.bench.results.comparison import FIGURES, MORE_IS_BETTER, Comparison, figure_text
from core.bench.results.result import BenchResult, results
from core.bench.results.tables import points_table, queueing_table, remarks
from core.cli import context
from core.cli.terminal import progress_text, terminal, write_file
from core.domain.runs import BenchRun, RunState
from core.errors import InputError
from core.i18n import N_, _
from core.jobs.runner import ended_if_killed
from core.reports.run_json import bench_to_json
from core.settings import Settings
from core.store.runs import RUN_INTERRUPTED, BenchRuns

STOPPED_EXIT_CODE = 130
_DRAWN_PER_S = 2
"""Drawing happens in the measuring process, so there is little of it."""
_OPEN_LOAD_S = 10.0
_STYLES = {result_tables.Tone.PLAIN: "", result_tables.Tone.FAINT: "dim", result_tables.Tone.BAD: "red"}

console = terminal()
progress = terminal(stderr=True)


def bench(
    lane: context.LaneNames = None,
    endpoint: context.EndpointUrls = None,
    model: context.EndpointModels = None,
    api_key: context.EndpointKeys = None,
    dialect: context.EndpointDialect = None,
    preset: Annotated[
        Preset | None, typer.Option(help=_("Use a preset plan instead of the options below."))
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(help=_("Length of synthetic prompts in tokens."))] = 128,
    prompts: Annotated[
        str | None,
        typer.Option(
            help=_(
                "Text file, .jsonl, ShareGPT .json, or .csv with prompts, or “examples” for built-in prompts."
            )
        ),
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(help=_("Image to send with the requests. Repeat for more, sent in rotation.")),
    ] = None,
    same_images: Annotated[
        bool,
        typer.Option(
            "--same-images",
            help=_(
                "Send images unchanged instead of adding noise in a corner. Shows what an engine gains by "
                "caching "
                "images."
            ),
        ),
    ] = False,
    output_tokens: Annotated[int, typer.Option(help=_("Length of each answer in tokens."))] = 128,
    natural: Annotated[
        bool,
        typer.Option(
            "--natural", help=_("Let answers end at end-of-sequence; --output-tokens is the maximum.")
        ),
    ] = False,
    concurrency: Annotated[str, typer.Option(help=_("Requests in flight, such as 1,4,16."))] = "1",
    rate: Annotated[
        str | None, typer.Option(help=_("Open loop: requests per second, such as 2 or 1,2,4."))
    ] = None,
    poisson: Annotated[
        bool, typer.Option("--poisson", help=_("Use Poisson arrivals instead of constant gaps."))
    ] = False,
    sweep: Annotated[
        int | None, typer.Option(help=_("Find the saturation point, up to this concurrency."))
    ] = None,
    requests: Annotated[int | None, typer.Option(help=_("Measured requests per lane and load."))] = None,
    seconds: Annotated[
        float | None, typer.Option(help=_("Seconds per point, instead of --requests."))
    ] = None,
    warmup: Annotated[
        int, typer.Option(help=_("Requests sent before each point and excluded from its results."))
    ] = 2,
    repeats: Annotated[
        int, typer.Option(help=_("Runs of the whole plan, reversing the lane order every other time."))
    ] = 1,
    together: Annotated[
        bool,
        typer.Option(
            "--together", help=_("Measure each lane alone, then all at once, to show interference.")
        ),
    ] = False,
    stop_others: Annotated[
        bool,
        typer.Option(
            "--stop-others", help=_("Stop the engines of the other lanes instead of leaving them idle.")
        ),
    ] = False,
    seed: Annotated[
        int, typer.Option(help=_("Seed for prompts, random arrivals, and bootstrap resampling."))
    ] = 0,
    goodput: Annotated[
        str | None,
        typer.Option(help=_("Limits in seconds, such as ttft=0.5,tpot=0.03,e2e=10, or a preset's name.")),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help=_("Processes that send the requests. By default as many as the load and the cores suggest.")
        ),
    ] = None,
    send_from: Annotated[
        SendFrom,
        typer.Option(
            help=_(
                "Which machines send the requests: this one (here), the node of each lane's engine "
                "(engine), or all nodes of the cluster (nodes)."
            )
        ),
    ] = SendFrom.HERE,
    title: Annotated[str, typer.Option(help=_("Title of the run."))] = "",
    json: Annotated[
        str | None, typer.Option(metavar="FILE", help=_("Write the result as JSON; - for stdout."))
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help=_("Include the timestamps of every request in the JSON."))
    ] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help=_("Write a report with charts as HTML."))
    ] = None,
) -> None:
    """Load-test lanes or endpoints in this process and store the run."""
    settings, registry = context.load()
    endpoints = context.EndpointChoice(urls=endpoint, models=model, keys=api_key, dialect=dialect)
    lanes = context.chosen_lanes(settings, registry, lane, endpoints)
    if preset is not None:
        plan = replace(preset_plan(preset, lanes), workers=workers, send_from=send_from)
    else:
        load = _load(concurrency, rate, sweep, poisson=poisson)
        plan = BenchPlan(
            lanes=lanes,
            workload=_workload(prompts, prompt_tokens, output_tokens, natural=natural),
            load=load,
            requests=_enough(load) if requests is None and seconds is None else requests,
            seconds=seconds,
            warmup=warmup,
            repeats=repeats,
            isolation=_isolation(together=together, stop_others=stop_others),
            seed=seed,
            limits=_limits(goodput),
            workers=workers,
            send_from=send_from,
            title=title,
        )
    if image:
        plan = _with_images(settings, plan, image, vary=not same_images)
    run = _measure(settings, plan)
    failed = _tell(settings, run.id, json=json, raw=raw, html=html)
    if run.state is RunState.STOPPED:
        raise typer.Exit(STOPPED_EXIT_CODE)
    if failed or run.state is not RunState.DONE:
        raise typer.Exit(1)


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


def _workload(prompts: str | None, prompt_tokens: int, output_tokens: int, *, natural: bool) -> Workload:
    kind, path = PromptKind.SYNTHETIC, None
    if prompts == PromptKind.EXAMPLES:
        kind = PromptKind.EXAMPLES
    elif prompts is not None:
        path = str(Path(prompts).expanduser().absolute())
        kind = prompt_kind(prompts)
    return Workload(
        prompts=kind,
        path=path,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        fixed_output=not natural,
    )


def _with_images(settings: Settings, plan: BenchPlan, files: list[Path], *, vary: bool) -> BenchPlan:
    if len(files) > MAX_WORKLOAD_IMAGES:
        raise InputError(
            N_("Too many images ({n}).", n=len(files)),
            hint=N_("Choose at most {most}. They are sent in rotation.", most=MAX_WORKLOAD_IMAGES),
        )
    images = context.stored_images(settings, files)
    return replace(plan, workload=replace(plan.workload, images=images, vary_images=vary))


def _load(concurrency: str, rate: str | None, sweep: int | None, *, poisson: bool) -> Load:
    if sweep is not None:
        return Load(kind=LoadKind.SWEEP, max_concurrency=sweep)
    if rate is not None:
        return Load(
            kind=LoadKind.OPEN,
            rates_req_per_s=parse_numbers("--rate", rate),
            arrivals=Arrivals.POISSON if poisson else Arrivals.CONSTANT,
        )
    return Load(concurrencies=parse_whole_numbers("--concurrency", concurrency))


def _enough(load: Load) -> int:
    """Number of requests where none is given: enough to keep the load up for a while."""
    if load.kind is LoadKind.OPEN:
        return max(16, math.ceil(max(load.rates_req_per_s) * _OPEN_LOAD_S))
    return max(16, 4 * max(load.concurrencies))


def _isolation(*, together: bool, stop_others: bool) -> Isolation:
    if together and stop_others:
        raise InputError(
            N_("--together and --stop-others can't be combined."), hint=N_("Use one of the two.")
        )
    return Isolation.TOGETHER if together else Isolation.STOPPED if stop_others else Isolation.ISOLATED


def _limits(text: str | None) -> Limits | None:
    return parse_limits(text) if text is not None else None


def _measure(settings: Settings, plan: BenchPlan) -> BenchRun:
    from core.bench.run.job import conduct  # to look at runs takes no load generator

    if progress.is_terminal:
        estimate = _("About {time}, plus engine start-up", time=units.duration(estimated_s(plan)))
        progress.print(estimate, style="dim")
    columns = (progress_text(), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=progress, transient=True, refresh_per_second=_DRAWN_PER_S) as bar:
        task = bar.add_task("", total=1.0)

        def report(stage: str, done: float | None = None) -> None:
            bar.update(task, description=_(stage), completed=done)

        with ended_if_killed(plan.id, RUN_INTERRUPTED):
            return conduct(settings, plan, report)


def _tell(settings: Settings, run_id: str, *, json: str | None, raw: bool, html: Path | None) -> int:
    """Print the run as a table, or as JSON if `json` is "-", write its files, and return what failed."""
    with closing(BenchRuns(settings.database_url)) as runs:
        record = runs.record(run_id)
    result = results(record)
    document = bench_to_json(result, record, raw=raw) if json is not None else b""
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


def _belongs_below(table: result_tables.Table, place: int) -> bool:
    return table.head[place] == "p95" and table.head[place - 1].endswith("p50")


def _changed(figure: str, value: float | None, change_ratio: float | None) -> Text:
    text = Text(figure_text(figure, value))
    if change_ratio is None:
        return text
    better = (change_ratio > 0) == (figure in MORE_IS_BETTER)
    colour = "green" if better else "red"
    return text.append(" ").append(f"{change_ratio:+.1%}", colour)
