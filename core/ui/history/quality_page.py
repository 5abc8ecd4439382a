"""A quality run's page, and quality runs side by side."""

from collections.abc import Sequence

import streamlit as st

from core import units
from core.domain.history import RunKind
from core.errors import InputError
from core.i18n import _
from core.quality.comparison import MAX_RUNS, QualityComparison, compare
from core.quality.results import QualityResult, results
from core.reports.quality_html import report_html
from core.ui.history import entry as history_entry
from core.ui.quality.results import lane_cells, show_results
from core.ui.shared import resources
from core.ui.shared.components import color_of, escape, lane_label, show_error
from core.ui.shared.visitor import show_export


def show_quality(run_id: str) -> None:
    """Raises StoreError."""
    history_entry.show_way_back()
    entry = history_entry.find(run_id, RunKind.QUALITY)
    if entry is None:
        return
    with st.spinner(_("Reading the run"), show_time=True):
        record = resources.quality_runs().record(run_id)
    with st.container(horizontal=True):
        history_entry.show_entry_actions(entry)
        show_export(
            _("HTML report"),
            f"{RunKind.QUALITY} {run_id}",
            lambda: report_html(results(record), record, _colors(results(record))),
            file_name=f"quality-{run_id}.html",
        )
    history_entry.show_annotation(entry)
    st.subheader(escape(record.run.title), anchor=False)
    if record.run.error is not None:
        show_error(record.run.error)
    try:
        show_results(record, drill_down=True)
    except InputError as error:  # a plan of a later version
        show_error(error)


def are_quality(run_ids: Sequence[str]) -> bool:
    """Whether the runs of a comparison are quality runs; those that are not here don't count."""
    kinds = {entry.kind for entry in resources.history().find(run_ids)}
    return kinds == {RunKind.QUALITY}


def show_comparison(run_ids: Sequence[str]) -> None:
    """Raises StoreError."""
    history_entry.show_way_back()
    entries = [entry for entry in resources.history().find(run_ids) if entry.deleted_at is None]
    if not 2 <= len(entries) <= MAX_RUNS:
        st.info(
            _(
                "Two to {most} quality runs can be compared. This address names {n}.",
                most=MAX_RUNS,
                n=len(entries),
            ),
            icon=":material/compare_arrows:",
        )
        return
    with st.spinner(_("Reading the runs"), show_time=True):
        compared = [results(resources.quality_runs().record(entry.id)) for entry in entries]
    comparison = compare(compared)
    for warning in comparison.warnings:
        st.warning(_(warning), icon=":material/balance:")
    _show_lanes(comparison)


def _show_lanes(comparison: QualityComparison) -> None:
    """A row for each lane of each run, the runs of one lane below each other."""
    texts = list(dict.fromkeys(text.name for run in comparison.runs for text in run.plan.texts))
    rows = [
        (row.name, run, lane)
        for row in comparison.lanes
        for run, lane in zip(comparison.runs, row.lanes, strict=True)
    ]
    table: dict[str, list[str]] = {
        _("Lane"): [lane_label(name) for name, _run, _lane in rows],
        _("Run"): [_run_label(run) for _name, run, _lane in rows],
    }
    known = [lane_cells(lane, texts) if lane else {} for _name, _run, lane in rows]
    for column in dict.fromkeys(column for cells in known for column in cells):
        table[column] = [cells.get(column, units.UNKNOWN) for cells in known]
    st.table(table, border="horizontal", hide_index=True)


def _run_label(run: QualityResult) -> str:
    return f"[{escape(run.run.title)}](history?quality={run.run.id})"


def _colors(result: QualityResult) -> dict[str, str]:
    return {lane.name: color_of(lane.name) for lane in result.lanes}
