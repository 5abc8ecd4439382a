"""Entries of the history, and comparisons of runs, as tables: plain data, one row an entry or a figure."""

from collections.abc import Callable, Sequence

import pyarrow as pa

from core import csv_text, units
from core.bench.results.comparison import (
    FIGURES,
    MAX_RUNS,
    MEANS,
    MORE_IS_BETTER,
    ComparedPoint,
    Comparison,
    Difference,
    change_text,
    figure_text,
)
from core.bench.statistics import Interval
from core.charts.comparison import LETTERS, point_name
from core.domain.history import HistoryEntry, LaneSummary, RunKind, Summary
from core.i18n import N_, Text, _
from core.ui.shared.components import escape

KIND_NAMES = {
    RunKind.CHAT: N_("Turn"),
    RunKind.BENCH: N_("Benchmark"),
    RunKind.QUALITY: N_("Quality"),
    RunKind.WALK: N_("Walk"),
    RunKind.QUIZ: N_("Quiz"),
    RunKind.SWEEP: N_("Memory sweep"),
}
OPEN = ":material/open_in_full:"
_STATES: dict[str, Text] = {
    text: text for text in (N_("running"), N_("done"), N_("stopped"), N_("failed"), N_("cancelled"))
}

_COMPARABLE = frozenset({RunKind.BENCH, RunKind.QUALITY})
_TEXTS = pa.list_(pa.string())
SCHEMA = pa.schema(
    {
        "open": pa.string(),
        "when": pa.timestamp("us", tz="UTC"),
        "kind": pa.string(),
        "title": pa.string(),
        "lanes": _TEXTS,
        "ttft": _TEXTS,
        "decode": _TEXTS,
        "failed": pa.string(),
        "state": pa.string(),
        "tag": pa.string(),
        "note": pa.string(),
        "models": _TEXTS,
        "machine": pa.string(),
    }
)

_SHOWN_AS_NONE = 0.0005
"""Such changes read 0.0 %."""
_COLUMNS = (
    "lane",
    "concurrency",
    "rate_req_per_s",
    "together",
    "figure",
    "run_id",
    "run_title",
    "is_baseline",
    "value",
    "change_ratio",
    "change_low_ratio",
    "change_high_ratio",
)


def rows(entries: Sequence[HistoryEntry]) -> pa.Table:
    """The table of these entries; figures of lanes stand in the lanes' order."""
    return pa.Table.from_pylist([_row(entry) for entry in entries], schema=SCHEMA)


def failures(summary: Summary | None) -> str:
    """`2 of 40`: requests that failed, of all that were answered or failed."""
    if summary is None:
        return units.UNKNOWN
    return _(
        "{part} of {total}",
        part=units.count(summary.failed),
        total=units.count(summary.answered + summary.failed),
    )


def comparable(entries: Sequence[HistoryEntry]) -> bool:
    """Whether all of them are runs of one kind, and as many as can be compared."""
    kinds = {entry.kind for entry in entries}
    return 2 <= len(entries) <= MAX_RUNS and len(kinds) == 1 and kinds <= _COMPARABLE


def _row(entry: HistoryEntry) -> dict[str, object]:
    return {
        "open": OPEN,
        "when": entry.created_at,
        "kind": _kind(entry),
        "title": _(entry.title),
        "lanes": entry.lanes,
        "ttft": _figures(entry.summary, lambda lane: units.milliseconds(lane.ttft_s)),
        "decode": _figures(entry.summary, lambda lane: _speed(lane.decode_tok_per_s)),
        "failed": failures(entry.summary),
        "state": _(_STATES.get(entry.state, entry.state)),
        "tag": entry.tag,
        "note": " ".join(entry.note.split()),
        "models": entry.models,
        "machine": entry.host,
    }


def _kind(entry: HistoryEntry) -> str:
    name = KIND_NAMES[entry.kind]
    return _("{kind} with images", kind=name) if entry.with_images else _(name)


def _figures(summary: Summary | None, text: Callable[[LaneSummary], str]) -> list[str]:
    return [text(lane) for lane in summary.lanes] if summary else []


def _speed(tok_per_s: float | None) -> str:
    return units.tok_per_s(tok_per_s).removesuffix(" tok/s")


def figure_table(comparison: Comparison, figure: str) -> str:
    """One figure of all points as a Markdown table, with the change against the baseline."""
    letters = LETTERS[: len(comparison.runs)]
    head = "".join(f" {letter} |" for letter in letters)
    lines = [f"| |{head}", "|:--|" + "--:|" * len(letters)]
    for point in comparison.points:
        if any(value is not None for value in point.values(figure)):
            cells = "".join(f" {cell} |" for cell in _cells(comparison, point, figure))
            lines.append(f"| {cell_text(point_name(point))} |{cells}")
    return "\n".join(lines)


def difference_table(rows: Sequence[Difference], runs: int) -> pa.Table:
    """A row for each setting, a column for each run, and whether they differ."""
    columns: dict[str, Sequence[object]] = {
        "setting": [row.path.removeprefix("plan.") for row in rows],
        "differs": [row.differs for row in rows],
    }
    letters = LETTERS[:runs]
    return pa.table(
        columns | {letter: [row.values[place] for row in rows] for place, letter in enumerate(letters)}
    )


def workload_differences(comparison: Comparison) -> list[str]:
    """The differences between the workloads: `output_tokens: A 128, B 256`."""
    prefix = "plan.workload."
    return [
        f"{row.path.removeprefix(prefix)}: "
        + ", ".join(f"{letter} {value}" for letter, value in zip(LETTERS, row.values, strict=False))
        for row in comparison.settings
        if row.path.startswith(prefix)
    ]


def to_csv(comparison: Comparison) -> str:
    """A row for each figure of each point of each run; seconds, unknown is empty."""
    return csv_text.to_csv(
        _COLUMNS,
        (
            row
            for point in comparison.points
            for figure in FIGURES
            for row in _csv_rows(comparison, point, figure)
        ),
    )


def _csv_rows(comparison: Comparison, point: ComparedPoint, figure: str) -> list[dict[str, object]]:
    changes = point.change_ratios(figure, comparison.baseline)
    intervals = point.change_intervals(figure, comparison.baseline)
    return [
        {
            "lane": point.lanes[place],
            "concurrency": point.level.concurrency,
            "rate_req_per_s": point.level.rate_req_per_s,
            "together": point.together,
            "figure": figure,
            "run_id": result.run.id,
            "run_title": result.run.title,
            "is_baseline": place == comparison.baseline,
            "value": value,
            "change_ratio": changes[place],
            "change_low_ratio": interval.low if (interval := intervals[place]) else None,
            "change_high_ratio": interval.high if interval else None,
        }
        for place, (result, value) in enumerate(zip(comparison.runs, point.values(figure), strict=True))
        if value is not None
    ]


def _cells(comparison: Comparison, point: ComparedPoint, figure: str) -> list[str]:
    changes = point.change_ratios(figure, comparison.baseline)
    intervals = point.change_intervals(figure, comparison.baseline)
    return [
        _cell(figure, value, None if place == comparison.baseline else changes[place], intervals[place])
        for place, value in enumerate(point.values(figure))
    ]


def _cell(figure: str, value: float | None, change: float | None, interval: Interval | None) -> str:
    text = _unbroken(figure_text(figure, value))
    if change is None:
        return text
    return f"{text} :{_color(figure, change, interval)}[{_unbroken(change_text(change, interval))}]"


def _unbroken(text: str) -> str:
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _color(figure: str, change: float, interval: Interval | None) -> str:
    """Grey where the change is not shown to be one: its interval includes zero, or a mean has none."""
    if abs(change) < _SHOWN_AS_NONE or (interval is None and figure in MEANS):
        return "gray"
    if interval is not None and interval.low <= 0 <= interval.high:
        return "gray"
    return "green" if (change > 0) == (figure in MORE_IS_BETTER) else "red"


def cell_text(text: str) -> str:
    """Text of people or files, so that a Markdown table shows it as it is."""
    return " ".join(escape(text).replace("|", "\\|").split())
