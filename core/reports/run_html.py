"""A run as one HTML file with interactive charts, which opens anywhere and needs no network.

plotly's own script is part of the file, once: 4 to 5 MB.
"""

from collections.abc import Sequence
from html import escape

import plotly.graph_objects as go
import plotly.io as pio
from plotly.offline import get_plotlyjs

from core import units
from core.bench.results.definitions import DEFINITIONS
from core.bench.results.points import Point
from core.bench.results.queueing import BEFORE_SENDING, IN_THE_ENGINE
from core.bench.results.result import BenchResult
from core.bench.statistics import Distribution
from core.charts.colors import lane_color
from core.charts.load import (
    LATENCIES,
    THROUGHPUTS,
    Colors,
    conditions,
    latency_chart,
    load_text,
    pareto_chart,
    throughput_chart,
)
from core.charts.load_bars import failures_chart, interference_chart, speed_up_chart
from core.charts.requests import gaps_chart, timeline_chart
from core.domain.bench import BenchRecord

_STYLE = """
:root { color-scheme: light; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1a1f2b; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; }
th, td { border-bottom: 1px solid #d3d9e3; padding: .3rem .7rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child, .words td { text-align: left; }
.words td { white-space: normal; }
.scroll { overflow-x: auto; }
.quiet { color: #5b6472; }
.failed { color: #b3261e; }
"""
_TIMELINE_REQUESTS = 400
"""A timeline of more would be a grey block."""


def report_html(result: BenchResult, record: BenchRecord, colors: Colors | None = None) -> str:
    """The whole page. Without `colors` of the lanes they go by the plan's order."""
    known = [lane.name for lane in result.plan.lanes]
    figures = _figures(result, record, colors or {name: lane_color(name, known) for name in known})
    body = (
        f"{_head(result)}{_points(result.points)}{_queueing(result.points)}{_comparison(result)}"
        f"{charts_html(figures)}{_definition(result)}{_lanes(result)}"
    )
    return page_html(result.run.title, body)


def page_html(title: str, body: str) -> str:
    """A whole page with plotly's script; `body` is HTML."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>'
        f"<script>{get_plotlyjs()}</script></head><body><h1>{escape(title)}</h1>{body}</body></html>\n"
    )


def _figures(result: BenchResult, record: BenchRecord, colors: Colors) -> list[go.Figure]:
    figures = [
        *(latency_chart(result, metric, colors) for metric in LATENCIES if _has(result, metric)),
        *(
            throughput_chart(result, what, colors)
            for what, (_, _, value) in THROUGHPUTS.items()
            if any(value(point) is not None for point in result.points)
        ),
        pareto_chart(result, colors),
        gaps_chart(
            record.requests, colors, definition=DEFINITIONS[result.tool], subtitle="at all loads of the run"
        ),
    ]
    if result.speed_ups:
        figures.append(speed_up_chart(result, colors))
    if result.interference:
        figures.append(interference_chart(result, colors))
    if any(point.requests.failed for point in result.points):
        figures.append(failures_chart(result))
    if record.passes and len(record.requests) <= _TIMELINE_REQUESTS * len(record.passes):
        last = record.passes[-1]
        subtitle = f"{' + '.join(last.lanes)}, {load_text(last.level)}"
        figures.append(timeline_chart(last, record.requests, colors, subtitle=subtitle))
    return figures


def _has(result: BenchResult, metric: str) -> bool:
    return any(LATENCIES[metric][1](point) is not None for point in result.points)


def _head(result: BenchResult) -> str:
    run, plan = result.run, result.plan
    machine = run.machine
    facts = [
        f"{run.created_at:%Y-%m-%d %H:%M} UTC",
        f"LMDyno {run.lmdyno}",
        *([machine.host, *machine.gpus, machine.cpu or ""] if machine else []),
        conditions(result),
        f"{plan.warmup} warm-up requests before each pass, left out",
        f"{plan.repeats} repeat{'s' if plan.repeats > 1 else ''}, lanes in alternating order",
        f"seed {plan.seed}",
        f"state: {run.state}",
    ]
    return f'<p class="quiet">{escape(" · ".join(fact for fact in facts if fact))}</p>'


def _points(points: Sequence[Point]) -> str:
    head = (
        "lane",
        "load",
        "answered",
        "failed",
        "TTFT p50",
        "p95",
        "TPOT p50",
        "p95",
        "E2E p50",
        "system",
        "requests/s",
        "goodput/s",
    )
    return _table(head, [_point_cells(point) for point in points])


def _queueing(points: Sequence[Point]) -> str:
    """How long requests waited to be sent, and in the engine; nothing where neither is known of any point."""
    if not any(point.delay_s or point.queue_s for point in points):
        return ""
    head = ("queueing", "load", "before sending, p50", "p95", "n", "in the engine, mean", "n")
    return _table(head, [_queueing_cells(point) for point in points])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The cells of the rows are HTML."""
    columns = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return f'<div class="scroll"><table><thead><tr>{columns}</tr></thead><tbody>{body}</tbody></table></div>'


def _queueing_cells(point: Point) -> list[str]:
    delay, queue = point.delay_s, point.queue_s
    cells = [
        *_lane_and_load(point),
        units.milliseconds(delay.p50 if delay else None),
        units.milliseconds(delay.p95 if delay else None),
        units.count(delay.n if delay else None),
        units.milliseconds(queue.mean_s if queue else None),
        units.count(queue.n if queue else None),
    ]
    return [f"<td>{escape(cell)}</td>" for cell in cells]


def _lane_and_load(point: Point) -> tuple[str, str]:
    level = point.level
    lane = point.lane + (" (together)" if len(point.together) > 1 else "")
    return lane, f"{level.concurrency}" if level.concurrency else f"{level.rate_req_per_s:g}/s"


def _point_cells(point: Point) -> list[str]:
    def p50(found: Distribution | None) -> str:
        return units.milliseconds(found.p50 if found else None)

    def p95(found: Distribution | None) -> str:
        return f"{units.milliseconds(found.p95 if found else None)} (n = {found.n:,})" if found else ""

    failed = ", ".join(f"{number} {code}" for code, number in point.requests.by_code.items())
    cells = [
        *_lane_and_load(point),
        f"{point.requests.ok:,}",
        failed or "0",
        p50(point.ttft_s),
        p95(point.ttft_s),
        p50(point.tpot_s),
        p95(point.tpot_s),
        p50(point.e2e_s),
        units.tok_per_s(point.system_tok_per_s),
        f"{point.req_per_s:.2f}",
        units.UNKNOWN if point.goodput_req_per_s is None else f"{point.goodput_req_per_s:.2f}",
    ]
    return [
        f'<td class="failed">{escape(cell)}</td>' if failed and place == 3 else f"<td>{escape(cell)}</td>"
        for place, cell in enumerate(cells)
    ]


def _comparison(result: BenchResult) -> str:
    lines = [
        f"{each.lane} loses to the others at a load of "
        f"{each.level.concurrency or each.level.rate_req_per_s:g}: TPOT × {each.tpot_ratio.value:.2f}"
        for each in result.interference
    ]
    lines += [f"{lane} is saturated at concurrency {at}" for lane, at in result.saturation.items()]
    notes = dict.fromkeys(f"{point.lane}: {note}" for point in result.points for note in point.notes)
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in (*lines, *notes)) + "</ul>"


def charts_html(figures: Sequence[go.Figure]) -> str:
    """Interactive charts for `page_html`."""
    config = {"displaylogo": False, "responsive": True, "toImageButtonOptions": {"format": "svg"}}
    return "".join(
        pio.to_html(figure, include_plotlyjs=False, full_html=False, config=config) for figure in figures
    )


def _definition(result: BenchResult) -> str:
    found = DEFINITIONS[result.tool]
    rows = {
        "TTFT": found.ttft,
        "ITL": found.itl,
        "TPOT": found.tpot,
        "E2E": found.e2e,
        "tokens": found.tokens,
        "system speed": found.throughput,
        "queued before sending": BEFORE_SENDING,
        "queued in the engine": IN_THE_ENGINE,
    }
    cells = "".join(f"<tr><td>{name}</td><td>{escape(text)}</td></tr>" for name, text in rows.items())
    return (
        f"<h2>Definitions ({found.title})</h2><div class='scroll'><table class='words'>{cells}</table></div>"
    )


def _lanes(result: BenchResult) -> str:
    rows = "".join(
        f"<tr><td>{escape(facts.lane.name)}</td><td>{escape(facts.lane.kind)}</td>"
        f"<td>{escape(facts.engine_version or units.UNKNOWN)}</td>"
        f"<td>{escape(facts.device or units.UNKNOWN)}</td>"
        f"<td>{escape(facts.error.message if facts.error else facts.prompts)}</td></tr>"
        for facts in result.run.lanes
    )
    return f"<h2>Lanes</h2><table class='words'>{rows}</table>"
