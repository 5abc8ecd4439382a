"""`quality`: compare lanes from the command line, in this process, and quality runs in a terminal.

A run is stored like one of the dashboard. It is shown as tables and sentences. `show`, `export` and
`compare_runs` are what `runs` does with quality runs; each says whether the runs are quality runs at all.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeElapsedColumn
from rich.table import Table

from core import units
from core.bench.statistics import Interval
from core.cli import context
from core.cli.terminal import progress_text, terminal, write_file
from core.codec import encode_plain
from core.domain.runs import QualityRecord, QualityRun, RunState
from core.domain.specs import SETTINGS_OF, LaneSpec
from core.errors import InputError
from core.i18n import N_, Text, _
from core.images.store import ImageStore
from core.jobs.runner import ended_if_killed
from core.quality.asking import require_installed
from core.quality.plan import (
    KV_BITS,
    OWN_ANSWERS,
    PROMPTS,
    PYTHON_DOCS,
    SCENES,
    QualityPlan,
    ShippedSet,
    TextSource,
    kv_variants,
    read_set,
    scenes,
    shipped,
    text_file,
)
from core.quality.results import LaneQuality, Outcome, QualityResult, results
from core.quality.tasks import TaskItem
from core.quality.verdict import MAX_RUNS, QualityComparison, compare, figures, flags, verdicts
from core.reports.run_json import quality_to_json
from core.settings import Settings
from core.store.runs import QUALITY_INTERRUPTED, QualityRuns

STOPPED_EXIT_CODE = 130
NONE = "none"

console = terminal()
progress = terminal(stderr=True)


def quality(
    lane: context.LaneNames = None,
    endpoint: context.EndpointUrls = None,
    model: context.EndpointModels = None,
    api_key: context.EndpointKeys = None,
    dialect: context.EndpointDialect = None,
    reference: Annotated[
        str | None, typer.Option(help=_("The lane to compare with. Default: the first one."))
    ] = None,
    kv: Annotated[
        list[int] | None,
        typer.Option(help=_("Add each LMDeploy lane with an 8-bit or 4-bit KV cache. Repeat for both.")),
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            help=_(
                "Task set: english, chinese, scenes (images), none, or a CSV or JSONL file. Repeat for "
                "more sets."
            )
        ),
    ] = None,
    prompts: Annotated[int, typer.Option(help=_("Number of prompts whose answers are compared."))] = len(
        PROMPTS
    ),
    answer_tokens: Annotated[int, typer.Option(help=_("Maximum answer length in tokens."))] = 48,
    text: Annotated[
        list[str] | None,
        typer.Option(
            help=_("Text to score: own-answers, python-docs, none, or a text file. Repeat for more texts.")
        ),
    ] = None,
    text_tokens: Annotated[int, typer.Option(help=_("Maximum number of tokens scored per text."))] = 4096,
    logits: Annotated[
        bool, typer.Option(help=_("Also compare logits. Loads each LMDeploy engine a second time."))
    ] = True,
    lm_eval: Annotated[
        str | None,
        typer.Option(
            "--lm-eval",
            help=_("Tasks of lm-evaluation-harness, separated by commas, if it is installed."),
        ),
    ] = None,
    lm_eval_limit: Annotated[
        int | None,
        typer.Option("--lm-eval-limit", help=_("Maximum number of questions per task. Default: all.")),
    ] = None,
    title: Annotated[str, typer.Option(help=_("Title of the run."))] = "",
    as_json: context.AsJson = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help=_("Write the result with every answer as JSON.")),
    ] = None,
) -> None:
    """Compare lanes in this process and store the run."""
    settings, registry = context.load()
    endpoints = context.EndpointChoice(urls=endpoint, models=model, keys=api_key, dialect=dialect)
    lanes = context.chosen_lanes(settings, registry, lane, endpoints)
    named = reference or lanes[0].name
    if all(lane.name != named for lane in lanes):
        lanes = (registry.lane(named), *lanes)
    items, names = _tasks(settings, tasks)
    plan = QualityPlan(
        lanes=(*lanes, *_with_kv_bits(lanes, kv or [])),
        reference=named,
        prompts=PROMPTS[:prompts],
        tasks=items,
        task_sets=names,
        texts=_texts(text, has_prompts=prompts > 0),
        answer_tokens=answer_tokens,
        text_tokens=text_tokens,
        window_tokens=min(512, text_tokens),
        logits=logits,
        external_tasks=_names(lm_eval),
        external_limit=lm_eval_limit,
        title=title,
    )
    run = _conduct(settings, plan)
    with closing(QualityRuns(settings.database_url)) as runs:
        record = runs.record(run.id)
    result = results(record)
    if as_json:
        sys.stdout.buffer.write(quality_to_json(result, record, raw=False) + b"\n")
    else:
        console.print(_lane_table(result))
        for line in _lines(result):
            console.print(line)
        console.print(_("Stored as {run}", run=run.id), style="dim")
    if out is not None:
        write_file(out, quality_to_json(result, record, raw=True))
    if run.state is RunState.STOPPED:
        raise typer.Exit(STOPPED_EXIT_CODE)
    if run.state is not RunState.DONE or any(lane.error for lane in run.lanes):
        raise typer.Exit(1)


def show(settings: Settings, run_id: str, *, as_json: bool) -> bool:
    record = _record(settings, run_id)
    if record is None:
        return False
    result = results(record)
    if as_json:
        typer.echo(quality_to_json(result, record, raw=False))
        return True
    console.print(f"{result.run.title} · {result.run.created_at:%Y-%m-%d %H:%M} UTC · {result.run.state}")
    console.print(_lane_table(result))
    for line in _lines(result):
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


def _names(text: str | None) -> tuple[str, ...]:
    names = tuple(name.strip() for name in (text or "").split(",") if name.strip())
    if names:
        require_installed()
    return names


def _with_kv_bits(lanes: tuple[LaneSpec, ...], bits: list[int]) -> tuple[LaneSpec, ...]:
    if not bits:
        return ()
    fitting = [lane for lane in lanes if "quant_policy" in SETTINGS_OF[lane.kind]]
    if not fitting:
        raise InputError(
            N_("None of the lanes has a setting for KV cache bits."),
            hint=N_("Choose an LMDeploy lane, such as turbomind."),
        )
    unusable = [number for number in dict.fromkeys(bits) if number not in KV_BITS] + [
        number for number in KV_BITS if number in bits
    ]
    return tuple(variant for lane in fitting for variant in kv_variants(lane, unusable))


def _tasks(settings: Settings, names: list[str] | None) -> tuple[tuple[TaskItem, ...], tuple[str, ...]]:
    chosen = [name for name in names or list(ShippedSet) if name != NONE]
    items: list[TaskItem] = []
    for name in chosen:
        if name in tuple(ShippedSet):
            items += shipped(ShippedSet(name))
        elif name == SCENES:
            items += scenes(ImageStore(settings.images_dir))
        else:
            items += read_set(Path(name).name, _content(name))
    return tuple(items), tuple(Path(name).name for name in chosen)


def _texts(names: list[str] | None, *, has_prompts: bool) -> tuple[TextSource, ...]:
    known = {text.kind.value: text for text in (OWN_ANSWERS, PYTHON_DOCS)}
    default = list(known) if has_prompts else [PYTHON_DOCS.kind.value]
    return tuple(
        known[name] if name in known else text_file(name, _content(name))
        for name in names or default
        if name != NONE
    )


def _content(name: str) -> bytes:
    try:
        return Path(name).expanduser().read_bytes()
    except OSError as exc:
        raise InputError(
            N_("{file} can't be read: {reason}", file=name, reason=exc.strerror or str(exc)),
            hint=N_("Check the path."),
        ) from exc


def _conduct(settings: Settings, plan: QualityPlan) -> QualityRun:
    from core.quality.job import conduct  # to look at runs takes no engines

    columns = (progress_text(), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=progress, transient=True, refresh_per_second=2) as bar:
        task = bar.add_task("", total=1.0)

        def report(stage: Text, done: float | None = None) -> None:
            bar.update(task, description=_(stage), completed=done)

        with ended_if_killed(plan.id, QUALITY_INTERRUPTED):
            return conduct(settings, plan, report)


def _lane_table(result: QualityResult) -> Table:
    """One row a lane: right answers, agreement, likelihood of each text, speed and memory."""
    texts = [text.name for text in result.plan.texts]
    table = Table(
        _("lane"),
        _("correct"),
        _("95% interval"),
        _("same answers"),
        _("same tokens"),
        *(_("{text}, nats", text=name) for name in texts),
        _("decode p50"),
        _("memory"),
    )
    for lane in result.lanes:
        table.add_row(*_row(lane, texts))
    return table


def _lines(result: QualityResult) -> Iterator[str]:
    """The verdicts with their reasons, then the differences between lanes."""
    for verdict in verdicts(result):
        yield f"{_(verdict.sentence)} {' '.join(_(reason) for reason in verdict.reasons)}".rstrip()
    for lane in result.lanes:
        for score in lane.facts.external:
            yield _(
                "{lane}, {program}: {task}, {metric} {value}",
                lane=lane.name,
                program=score.program,
                task=score.task,
                metric=score.metric,
                value=f"{score.value:.4f}",
            )
        if lane.facts.external_error is not None:
            yield _("{lane}: {problem}", lane=lane.name, problem=_(lane.facts.external_error.message))
    for flag in flags(result):
        yield _("Different: {what}", what=flag.text)


def _record(settings: Settings, run_id: str) -> QualityRecord | None:
    with closing(QualityRuns(settings.database_url)) as runs:
        return runs.record(run_id) if runs.run(run_id) else None


def _written(record: QualityRecord, form: str) -> bytes:
    if form == "html":
        # plotly takes its time, and only this needs it.
        from core.reports.html import quality_html

        return quality_html(results(record), record).encode()
    if form == "json":
        return quality_to_json(results(record), record, raw=True)
    from core.reports.tables import answers_csv, answers_parquet

    return answers_csv(record).encode() if form == "csv" else answers_parquet(record)


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


def _row(lane: LaneQuality, texts: list[str]) -> list[str]:
    tasks, agreement = lane.tasks, lane.agreement
    row = [
        lane.name,
        f"{tasks.outcomes[Outcome.RIGHT]}/{tasks.asked}" if tasks else units.UNKNOWN,
        _interval(tasks.interval if tasks else None),
        f"{agreement.identical}/{agreement.n}" if agreement else units.UNKNOWN,
        units.share(agreement.token_ratio if agreement else None),
    ]
    for name in texts:
        score = lane.text(name)
        value = units.nats(score.nats_per_token if score else None)
        apart = score.difference if score else None
        row.append(f"{value} ({units.nats_apart(apart.value)})" if apart else value)
    return [*row, units.tok_per_s(lane.decode_tok_per_s_p50), units.gib(lane.memory_bytes)]


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return units.UNKNOWN
    return f"{units.share(interval.low)} – {units.share(interval.high)}"
