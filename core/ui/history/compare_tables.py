"""A comparison as rows of text and as a CSV file: plain data."""

from collections.abc import Sequence

import pyarrow as pa

from core import csv_text
from core.bench.results.comparison import (
    FIGURES,
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
from core.ui.shared.components import escape

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


def figure_table(comparison: Comparison, figure: str) -> str:
    """One figure of all points as a Markdown table, with the change against the baseline."""
    letters = LETTERS[: len(comparison.runs)]
    head = "".join(f" {letter} |" for letter in letters)
    lines = [f"| |{head}", "|:--|" + "--:|" * len(letters)]
    for each in comparison.points:
        if any(value is not None for value in each.values(figure)):
            cells = "".join(f" {cell} |" for cell in _cells(comparison, each, figure))
            lines.append(f"| {cell_text(point_name(each))} |{cells}")
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
    """What exactly is not the same in the workloads: `output_tokens: A 128, B 256`."""
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
