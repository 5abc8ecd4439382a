"""A load test's points as tables: what everybody looks for, and all the rest."""

from collections.abc import Callable, Sequence

import streamlit as st

from core import units
from core.bench.results.points import Point
from core.bench.results.queueing import BEFORE_SENDING, IN_THE_ENGINE
from core.bench.results.result import BenchResult
from core.bench.statistics import P95_MIN_N, P99_MIN_N, Distribution
from core.charts.load import load_text
from core.domain.bench import BenchPass
from core.ui.shared.components import escape, lane_label

_LATENCIES: dict[str, Callable[[Point], Distribution | None]] = {
    "TTFT": lambda point: point.ttft_s,
    "TPOT": lambda point: point.tpot_s,
    "ITL": lambda point: point.itl_s,
    "ICL": lambda point: point.icl_s,
    "E2E": lambda point: point.e2e_s,
}


def show_points(result: BenchResult) -> None:
    """A row a lane and load; percentiles of too few values are grey."""
    has_limits = result.plan.limits is not None
    head = ["lane", "load", "ok", "failed", "TTFT p50", "p95", "TPOT p50", "p95", "E2E p50", "p95", "system"]
    head += ["requests/s", *(["goodput/s"] if has_limits else [])]
    rows = [_row(point, has_limits=has_limits) for point in result.points]
    st.markdown(_table(head, rows, left=1))


def show_queueing(result: BenchResult) -> None:
    """How long requests waited to be sent, and in the engine; a row a lane and load."""
    head = ["lane", "load", "before sending, p50", "p95", "n", "in the engine, mean", "n"]
    st.markdown("**Queueing**")
    st.markdown(_table(head, [_queueing_row(point) for point in result.points], left=1))
    st.caption(f"Before sending: {escape(BEFORE_SENDING)}.  \nIn the engine: {escape(IN_THE_ENGINE)}.")


def show_all_figures(result: BenchResult) -> None:
    """A row a point and latency: mean with its interval, all percentiles, n, and how the repeats agree."""
    head = ["lane", "load", "", "n", "mean", "95 % interval", "p50", "p90", "p95", "p99", "max"]
    rows = [
        _distribution_row(point, name, found)
        for point in result.points
        for name, value in _LATENCIES.items()
        if (found := value(point)) is not None
    ]
    st.markdown(_table(head, rows, left=3))
    if any(point.repeats > 1 for point in result.points):
        st.markdown("Over the repeats, each of which counts as one value:")
        st.markdown(
            _table(["lane", "load", "", "n", "mean", "95 % interval", "CV", ""], _repeats(result), left=3)
        )
    resources = [_resource_row(point) for point in result.points]
    st.markdown(
        _table(
            [
                "lane",
                "load",
                "prompt tokens",
                "output tokens",
                "duration",
                "energy",
                "a token",
                "GPU peak",
                "host peak",
            ],
            resources,
            left=2,
        )
    )


def _row(point: Point, *, has_limits: bool) -> list[str]:
    failed = point.requests.failed
    cells = [
        _lane(point),
        _load(point),
        f"{point.requests.ok:,}",
        f":red[{failed:,}]" if failed else "0",
        *_p50_p95(point.ttft_s),
        *_p50_p95(point.tpot_s),
        *_p50_p95(point.e2e_s),
        units.tok_per_s(point.system_tok_per_s),
        f"{point.req_per_s:.2f}",
    ]
    return [*cells, _number(point.goodput_req_per_s)] if has_limits else cells


def _queueing_row(point: Point) -> list[str]:
    delay, queue = point.delay_s, point.queue_s
    return [
        _lane(point),
        _load(point),
        *_p50_p95(delay),
        units.count(delay.n if delay else None),
        units.milliseconds(queue.mean_s if queue else None),
        units.count(queue.n if queue else None),
    ]


def _distribution_row(point: Point, name: str, found: Distribution) -> list[str]:
    ms = units.milliseconds
    interval = found.interval
    return [
        _lane(point),
        _load(point),
        name,
        f"{found.n:,}",
        ms(found.mean),
        f"{ms(interval.low)} to {ms(interval.high)}" if interval else units.UNKNOWN,
        ms(found.p50),
        _tail(found.p90, found.n, 10),
        _tail(found.p95, found.n, P95_MIN_N),
        _tail(found.p99, found.n, P99_MIN_N),
        ms(found.high),
    ]


def _repeats(result: BenchResult) -> list[list[str]]:
    names = {"ttft_s": "TTFT", "tpot_s": "TPOT", "system_tok_per_s": "system speed"}
    rows = []
    for point in result.points:
        for name, found in point.stability.items():
            text = units.tok_per_s if name == "system_tok_per_s" else units.milliseconds
            interval = found.interval
            rows.append(
                [
                    _lane(point),
                    _load(point),
                    names[name],
                    f"{found.n}",
                    text(found.mean),
                    f"{text(interval.low)} to {text(interval.high)}" if interval else units.UNKNOWN,
                    units.UNKNOWN if found.cv_ratio is None else f"{found.cv_ratio:.1%}",
                    found.stability or "",
                ]
            )
    return rows


def _resource_row(point: Point) -> list[str]:
    return [
        _lane(point),
        _load(point),
        units.UNKNOWN if point.prompt_tokens is None else f"{point.prompt_tokens:.1f}",
        units.count(point.output_tokens),
        units.duration(point.duration_s),
        units.joules(point.energy_j),
        units.joules(point.energy_j_per_token),
        units.gib(point.peak_gpu_bytes),
        units.gib(point.peak_resident_bytes),
    ]


def _lane(point: Point) -> str:
    return lane_label(point.lane) + (" together" if len(point.together) > 1 else "")


def _load(point: Point) -> str:
    level = point.level
    return f"{level.concurrency:,}" if level.concurrency is not None else f"{level.rate_req_per_s:g}/s"


def _p50_p95(found: Distribution | None) -> tuple[str, str]:
    if found is None:
        return units.UNKNOWN, units.UNKNOWN
    return units.milliseconds(found.p50), _tail(found.p95, found.n, P95_MIN_N)


def _tail(value_s: float, n: int, needed: int) -> str:
    text = units.milliseconds(value_s)
    return text if n >= needed else f":gray[{text}]"


def _number(value: float | None) -> str:
    return units.UNKNOWN if value is None else f"{value:.2f}"


def pass_text(each: BenchPass) -> str:
    repeat = f", repeat {each.repeat + 1}" if each.repeat else ""
    return f"{' + '.join(each.lanes)} · {load_text(each.level)}{repeat}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> str:
    """Markdown; the first `left` columns are text, the others numbers."""
    marks = [":--" if place < left else "--:" for place in range(len(head))]
    # A number and its unit stay in one line.
    cells = [[cell.replace(" ", "\u00a0") for cell in row] for row in (map(escape, head), *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (cells[0], marks, *cells[1:]))
