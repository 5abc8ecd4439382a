"""Compare runs: warnings first, then curves, changes from a baseline, and what else differs.

Quality runs are compared by a table of their lanes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import streamlit as st

from core import codec, units
from core.bench.results.comparison import (
    FIGURE_NAMES,
    FIGURES,
    MEANS,
    MORE_IS_BETTER,
    ComparedPoint,
    Comparison,
    Difference,
    change_text,
    compare,
    comparison_json,
    everything,
    figure_text,
    known_figures,
    unpaired,
)
from core.bench.results.result import BenchResult
from core.bench.statistics import Interval
from core.charts import comparison as charts_comparison
from core.charts.comparison import CURVES, LETTERS, Looks, point_name
from core.domain.runs import HistoryEntry, RunKind
from core.i18n import _
from core.quality.results import QualityResult
from core.quality.results import results as quality_results
from core.quality.verdict import MAX_RUNS, QualityComparison
from core.quality.verdict import compare as compare_quality
from core.reports.html import comparison_html
from core.ui.benchmark.result_parts import chart_tools
from core.ui.history import entry_pages as history_entry
from core.ui.history import session as history_state
from core.ui.history.list_page import show_outcome
from core.ui.history.session import BASELINE
from core.ui.quality.results import lane_cells
from core.ui.shared import resources
from core.ui.shared.components import color_of, escape, lane_label
from core.ui.shared.visitor import show_export

_BASELINE = "history_baseline"
_FIGURE = "history_figure"
_LOG = "history_log"
_ALL = "history_all_settings"
_IMAGE = "history_image"
_IMAGES = ("PNG", "SVG")
CHART_WIDTH_PX = 420

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


def show_comparison(run_ids: Sequence[str]) -> None:
    """Raises StoreError."""
    history_entry.show_way_back()
    show_outcome()
    entries = _entries(run_ids)
    if not 2 <= len(entries) <= len(LETTERS):
        st.info(
            _(
                "Two to {most} benchmark runs can be compared. This address names {n}.",
                most=len(LETTERS),
                n=len(entries),
            ),
            icon=":material/compare_arrows:",
        )
        return
    place = _show_runs(entries)
    with st.spinner(_("Reading the runs"), show_time=True):
        records = resources.run_records()
        results = [records.result(records.record(entry.id)) for entry in entries]
    comparison = compare(results, place, pairs=_show_pairing(results, place))
    lanes = {lane.name: color_of(lane.name) for result in comparison.runs for lane in result.plan.lanes}
    looks = charts_comparison.looks(comparison, lanes)
    _show_actions(comparison, lanes)
    _show_warnings(comparison)
    _show_curves(comparison, looks)
    _show_changes(comparison, looks)
    _show_differences(comparison)


def _entries(run_ids: Sequence[str]) -> list[HistoryEntry]:
    """Those that can be compared; says what is with the others."""
    by_id = {entry.id: entry for entry in resources.history().find(run_ids) if entry.kind is RunKind.BENCH}
    unknown = [run_id for run_id in run_ids if run_id not in by_id]
    if unknown:
        names = ", ".join(f"`{escape(run_id[:40])}`" for run_id in unknown[:6])
        st.warning(
            _(
                "Benchmark run {runs} not found. It was permanently deleted, or it was measured on "
                "another machine "
                "and has to be exported there and imported here.",
                runs=names,
            ),
            icon=":material/search_off:",
        )
    for entry in by_id.values():
        if entry.deleted_at is not None:
            history_entry.show_deleted(entry)
    return [entry for entry in by_id.values() if entry.deleted_at is None]


def _show_runs(entries: Sequence[HistoryEntry]) -> int:
    """The runs by their letters, and the choice of the baseline; returns its place."""
    ids = [entry.id for entry in entries]
    named = history_state.address().baseline
    st.session_state[_BASELINE] = named if named in ids else ids[0]
    lines = [
        f"| {letter} | [{_cell_text(entry.title)}](history?run={entry.id}) "
        f"| {_cell_text(', '.join(entry.lanes))} "
        f"| {history_entry.moment(entry.created_at)} | {_cell_text(entry.host or '–')} |"
        for letter, entry in zip(LETTERS, entries, strict=False)
    ]
    st.markdown("\n".join([_table_head(), "|:--|:--|:--|:--|:--|", *lines]))
    with st.container(horizontal=True):
        chosen = st.segmented_control(
            _("Baseline"),
            ids,
            format_func=dict(zip(ids, LETTERS, strict=False)).__getitem__,
            key=_BASELINE,
            required=True,
            on_change=_take_baseline,
            help=_("The run the others are compared with."),
        )
        st.segmented_control(
            _("Save charts as"),
            _IMAGES,
            default=_IMAGES[0],
            required=True,
            key=_IMAGE,
            help=_("The camera above each chart saves it."),
            persist_state="session",
        )
    return ids.index(chosen or ids[0])


def _table_head() -> str:
    return f"| | {_('Run')} | {_('Lanes')} | {_('Date')} | {_('Machine')} |"


def _show_pairing(results: Sequence[BenchResult], baseline: int) -> dict[str, str]:
    """Lanes that are on one side only, and a choice of which of them to compare."""
    own, others = unpaired(results, baseline)
    if others:
        st.caption(_("Only in the other runs: {lanes}", lanes=escape(", ".join(others))))
    if own:
        st.caption(_("Only in the baseline: {lanes}", lanes=escape(", ".join(own))))
    if not (own and others):
        return {}
    pairs = {}
    with st.popover(_("Compare lanes of different names"), icon=":material/link:"):
        for name in others:
            partner = st.selectbox(
                _("Compare {lane} with", lane=escape(name)),
                own,
                index=None,
                key=f"history_pair_{name}",
                placeholder=_("Choose one"),
            )
            if partner:
                pairs[name] = partner
    return pairs


def _tools(name: str) -> dict[str, Any]:
    return chart_tools(
        st.session_state[_IMAGE].lower(), f"lmdyno-comparison-{name.lower().replace(' ', '-')}"
    )


def _take_baseline() -> None:
    st.query_params[BASELINE] = st.session_state[_BASELINE]


def _show_actions(comparison: Comparison, lane_colors: Mapping[str, str]) -> None:
    ids = [result.run.id for result in comparison.runs]
    baseline = ids[comparison.baseline]
    name = f"comparison-{'-'.join(run_id[:6] for run_id in ids)}"
    with st.container(horizontal=True):
        show_export(
            "JSON", name, lambda: codec.encode_plain(comparison_json(comparison)), file_name=f"{name}.json"
        )
        show_export("CSV", name, lambda: to_csv(comparison), file_name=f"{name}.csv")
        show_export(
            _("HTML report"),
            name,
            lambda: comparison_html(comparison, lane_colors),
            file_name=f"{name}.html",
            meaning=_("One file with interactive charts that opens without a network."),
        )
        history_entry.show_link(history_state.link_to(compare=ids, baseline=baseline))


def _show_warnings(comparison: Comparison) -> None:
    if not comparison.warnings:
        return
    details = workload_differences(comparison)
    lines = [*(_(warning) for warning in comparison.warnings), *(f"- {detail}" for detail in details)]
    st.warning("\n\n".join(_line(line) for line in lines), icon=":material/balance:")


def _line(text: str) -> str:
    return f"- {escape(text[2:])}" if text.startswith("- ") else escape(text)


def _show_curves(comparison: Comparison, looks: Looks) -> None:
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.caption(_("Colour: lane. Dash and marker: run. Hollow: measured together."), width="content")
        log = st.toggle(_("Logarithmic"), key=_LOG, persist_state="session")
    with st.grid(2, min_column_width=CHART_WIDTH_PX) as grid:
        for name, curve in CURVES.items():
            with grid.cell():
                st.plotly_chart(
                    charts_comparison.load_chart(comparison, curve, looks, log=log),
                    key=f"history_curve_{name}",
                    config=_tools(name),
                    alt=_("{figure} against the load, a line per lane and run", figure=_(curve.title)),
                )


def _show_changes(comparison: Comparison, looks: Looks) -> None:
    figures = known_figures(comparison)
    if not figures:
        st.info(
            _("These runs share no lane and load, so there is nothing to compare."),
            icon=":material/compare_arrows:",
        )
        return
    if st.session_state.get(_FIGURE) not in figures:
        st.session_state[_FIGURE] = figures[0]
    chosen = st.segmented_control(
        _("Change of"), figures, format_func=lambda name: _(FIGURE_NAMES[name]), key=_FIGURE, required=True
    )
    figure = chosen or figures[0]
    st.plotly_chart(
        charts_comparison.change_chart(comparison, figure, looks),
        key="history_changes",
        config=_tools("changes"),
        alt=_(
            "Change of {figure} from the baseline; values in the table below", figure=_(FIGURE_NAMES[figure])
        ),
    )
    st.markdown(figure_table(comparison, figure))
    st.caption(
        _(
            "Brackets: 95% confidence interval of the change (means, and speeds over repeats). "
            "Grey: the interval "
            "includes zero, or there are too few requests for one. Percentiles have no interval."
        )
    )
    with st.expander(
        _("All values"), icon=":material/table:", on_change="rerun", key="history_all_figures"
    ) as every:
        if every.open:
            for name in figures:
                table = figure_table(comparison, name)
                st.markdown(f"**{_(FIGURE_NAMES[name])}**\n\n{table}")


def _show_differences(comparison: Comparison) -> None:
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.subheader(_("Settings and environment"), anchor=False, width="content")
        show_all = st.toggle(_("Show all"), key=_ALL, persist_state="session")
    settings, environment = (
        everything(comparison.runs) if show_all else (comparison.settings, comparison.environment)
    )
    for name, rows in ((_("Settings"), settings), (_("Environment"), environment)):
        if not rows:
            st.caption(_("{section}: no difference.", section=name))
            continue
        st.dataframe(
            difference_table(rows, len(comparison.runs)),
            key=f"history_differences_{rows is settings}",
            hide_index=True,
            column_config={
                "setting": st.column_config.TextColumn(name, pinned=True),
                "differs": st.column_config.CheckboxColumn(_("Differs"), width=70) if show_all else None,
            },
            alt=_("{section} of the runs side by side", section=name),
        )


def figure_table(comparison: Comparison, figure: str) -> str:
    """One figure of all points as a Markdown table, with the change against the baseline."""
    letters = LETTERS[: len(comparison.runs)]
    head = "".join(f" {letter} |" for letter in letters)
    lines = [f"| |{head}", "|:--|" + "--:|" * len(letters)]
    for point in comparison.points:
        if any(value is not None for value in point.values(figure)):
            cells = "".join(f" {cell} |" for cell in _cells(comparison, point, figure))
            lines.append(f"| {_cell_text(point_name(point))} |{cells}")
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
    return codec.to_csv(
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


def _cell_text(text: str) -> str:
    """Text of people or files, so that a Markdown table shows it as it is."""
    return " ".join(escape(text).replace("|", "\\|").split())


def are_quality(run_ids: Sequence[str]) -> bool:
    """Whether the runs of a comparison are quality runs; those that are not here don't count."""
    kinds = {entry.kind for entry in resources.history().find(run_ids)}
    return kinds == {RunKind.QUALITY}


def show_quality_comparison(run_ids: Sequence[str]) -> None:
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
        compared = [quality_results(resources.quality_runs().record(entry.id)) for entry in entries]
    comparison = compare_quality(compared)
    for warning in comparison.warnings:
        st.warning(_(warning), icon=":material/balance:")
    _show_quality_lanes(comparison)


def _show_quality_lanes(comparison: QualityComparison) -> None:
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
