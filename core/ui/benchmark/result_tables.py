"""Draw the tables of a benchmark run as Markdown, each lane in its colour."""

from collections.abc import Sequence

import streamlit as st

from core.bench.results.result import BenchResult
from core.bench.results.tables import (
    Cell,
    Row,
    Table,
    Tone,
    distributions_table,
    points_table,
    queueing_table,
    repeats_table,
    resources_table,
)
from core.domain.bench import BenchPass
from core.i18n import _
from core.ui.shared.components import escape, lane_label


def show_points(result: BenchResult) -> None:
    """A row per lane and load; percentiles of too few requests are grey."""
    st.markdown(markdown(points_table(result), is_small=True))


def show_queueing(result: BenchResult) -> None:
    """How long requests waited before they were sent and in the engine, where that is known."""
    if (table := queueing_table(result)) is not None:
        _show_titled(table)


def show_all_figures(result: BenchResult) -> None:
    """Every latency with its interval and percentiles, agreement of repeats, and resources."""
    for table in (distributions_table(result), repeats_table(result), resources_table(result)):
        if table is not None and table.rows:
            _show_titled(table)


def markdown(table: Table, *, is_small: bool = False) -> str:
    """The table as Streamlit's Markdown; a number and its unit stay in one line, a heading may take two."""
    marks = [":--" if place < table.words else "--:" for place in range(len(table.head))]
    lines = [[escape(name) for name in table.head], marks, *(_cells(row) for row in table.rows)]
    if is_small:
        lines = [line if line is marks else [f":small[{cell}]" for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def pass_text(bench_pass: BenchPass) -> str:
    """Such as `hf + awq · concurrency 4, repeat 2`."""
    lanes, load = " + ".join(bench_pass.lanes), bench_pass.level.label
    if bench_pass.repeat:
        return _("{lanes} · {load}, repeat {number}", lanes=lanes, load=load, number=bench_pass.repeat + 1)
    return _("{lanes} · {load}", lanes=lanes, load=load)


def _show_titled(table: Table) -> None:
    st.markdown(f"**{escape(table.title)}**")
    st.markdown(markdown(table))
    if table.notes:
        st.caption("  \n".join(escape(note) for note in table.notes))


def _cells(row: Row) -> Sequence[str]:
    label = lane_label(row.lane)
    if row.is_together:
        label = _("{lane} (together)", lane=label)
    return [_unbroken(label), *(_cell(cell) for cell in row.cells)]


def _cell(cell: Cell) -> str:
    text = _unbroken(escape(cell.text))
    match cell.tone:
        case Tone.FAINT:
            return f":gray[{text}]"
        case Tone.BAD:
            return f":red[{text}]"
        case Tone.PLAIN:
            return text


def _unbroken(text: str) -> str:
    return text.replace(" ", "\N{NO-BREAK SPACE}")
