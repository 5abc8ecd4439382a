"""A comparison of load tests as one HTML file with interactive charts, like `core.reports.run_html`."""

from collections.abc import Mapping, Sequence
from html import escape

from core import units
from core.bench.results.comparison import FIGURE_NAMES, Comparison, Difference, figure_text, known_figures
from core.charts.comparison import CURVES, LETTERS, change_chart, load_chart, looks, point_name
from core.reports.run_html import charts_html, page_html


def comparison_html(comparison: Comparison, lane_colors: Mapping[str, str]) -> str:
    """The whole page; `lane_colors` has a colour for every lane of the runs."""
    styles = looks(comparison, lane_colors)
    known = known_figures(comparison)
    figures = [
        *(load_chart(comparison, curve, styles) for curve in CURVES.values()),
        *(change_chart(comparison, name, styles) for name in known),
    ]
    warnings = "".join(f"<li class='failed'>{escape(text)}</li>" for text in comparison.warnings)
    body = (
        f"{_runs(comparison)}<ul>{warnings}</ul>{charts_html(figures)}"
        f"{''.join(_figure_table(comparison, name) for name in known)}"
        f"{_differences('Settings that differ', comparison.settings)}"
        f"{_differences('Environment that differs', comparison.environment)}"
    )
    return page_html(f"{len(comparison.runs)} load tests compared", body)


def _runs(comparison: Comparison) -> str:
    rows = []
    for place, result in enumerate(comparison.runs):
        run = result.run
        lanes = ", ".join(lane.name for lane in result.plan.lanes)
        host = run.machine.host if run.machine else units.UNKNOWN
        role = "baseline" if place == comparison.baseline else ""
        cells = (LETTERS[place], run.title, lanes, f"{run.created_at:%Y-%m-%d %H:%M} UTC", host, run.id, role)
        rows.append(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>")
    return f"<div class='scroll'><table class='words'>{''.join(rows)}</table></div>"


def _figure_table(comparison: Comparison, figure: str) -> str:
    head = "".join(f"<th>{letter}</th><th></th>" for letter in LETTERS[: len(comparison.runs)])
    rows = []
    for each in comparison.points:
        changes = each.change_ratios(figure, comparison.baseline)
        cells = "".join(
            f"<td>{figure_text(figure, value)}</td>"
            f"<td>{'' if place == comparison.baseline else units.percent(change)}</td>"
            for place, (value, change) in enumerate(zip(each.values(figure), changes, strict=True))
        )
        rows.append(f"<tr><td>{escape(point_name(each))}</td>{cells}</tr>")
    return (
        f"<h2>{escape(FIGURE_NAMES[figure])}</h2><div class='scroll'><table><thead><tr><th></th>{head}</tr>"
        f"</thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _differences(title: str, rows: Sequence[Difference]) -> str:
    if not rows:
        return ""
    cells = "".join(
        f"<tr><td>{escape(row.path)}</td>{''.join(f'<td>{escape(value)}</td>' for value in row.values)}</tr>"
        for row in rows
    )
    return f"<h2>{title}</h2><div class='scroll'><table class='words'>{cells}</table></div>"
