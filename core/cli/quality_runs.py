"""Quality runs in a terminal: as tables and sentences, and what `runs` does with them.

Every function of `runs` says whether the runs are quality runs at all.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import typer
from rich.table import Table

from core import units
from core.bench.statistics import Interval
from core.cli.terminal import terminal, write_file
from core.codec import encode_plain
from core.domain.runs import QualityRecord
from core.errors import InputError
from core.i18n import N_, _
from core.quality.results import LaneQuality, Outcome, QualityResult, results
from core.quality.verdict import MAX_RUNS, QualityComparison, compare, figures, flags, verdicts
from core.reports.quality_json import to_json
from core.settings import Settings
from core.store.runs import QualityRuns

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
        from core.reports.html import quality_html

        return quality_html(results(record), record).encode()
    if form == "json":
        return to_json(results(record), record, raw=True)
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


def lane_table(result: QualityResult) -> Table:
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


def lines(result: QualityResult) -> Iterator[str]:
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
