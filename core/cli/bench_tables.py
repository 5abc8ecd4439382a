"""Load tests as tables for a terminal."""

from rich import box
from rich.table import Table

from core import units
from core.bench.planning.wording import with_images
from core.bench.results.comparison import FIGURES, MORE_IS_BETTER, Comparison, figure_text
from core.bench.results.points import Point
from core.bench.results.queueing import BEFORE_SENDING, IN_THE_ENGINE
from core.bench.results.result import BenchResult
from core.bench.roofline.utilisation import BandwidthUtilisation
from core.bench.statistics import P95_MIN_N, Distribution
from core.domain.bench import LoadLevel


def result_table(result: BenchResult) -> Table:
    """The points of a run: p50 above p95, dimmed where too few requests tell it; + is a lane together."""
    names = ["ok", "failed", "TTFT", "TPOT", "E2E", "tok/s", "req/s"]
    if result.plan.limits is not None:
        names.append("good/s")
    caption = "; ".join(filter(None, ("latencies: p50, below it p95", with_images(result.plan.workload))))
    table = Table("lane", "load", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption)
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for point in result.points:
        goodput = [] if result.plan.limits is None else [_number(point.goodput_req_per_s)]
        table.add_row(*_cells(point), *goodput)
    return table


def queueing_table(result: BenchResult) -> Table | None:
    """How long requests waited to be sent, and in the engine; None where neither is known of any point."""
    if not any(point.delay_s or point.queue_s for point in result.points):
        return None
    caption = f"before sending: {BEFORE_SENDING}\nin the engine: {IN_THE_ENGINE}"
    table = Table("lane", "load", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption)
    table.caption_justify = "left"
    for name in ("before sending, p50", "p95", "n", "in the engine, mean", "n"):
        table.add_column(name, justify="right")
    for point in result.points:
        delay, queue = point.delay_s, point.queue_s
        table.add_row(
            *_cells(point)[:2],
            units.milliseconds(delay.p50 if delay else None),
            _tail(delay) if delay else units.UNKNOWN,
            units.count(delay.n if delay else None),
            units.milliseconds(queue.mean_s if queue else None),
            units.count(queue.n if queue else None),
        )
    return table


def remarks(result: BenchResult) -> list[str]:
    """What must be known about the figures, a line each."""
    lines = [
        f"{facts.lane.name}: {facts.error.message} {facts.error.hint}"
        for facts in result.run.lanes
        if facts.error
    ]
    lines += [
        f"{point.lane}, {load_text(point.level)}: {number:,} × {code}"
        for point in result.points
        for code, number in point.requests.by_code.items()
    ]
    for speed_up in result.speed_ups:
        ratio, interval = speed_up.tpot_ratio, speed_up.tpot_ratio.interval
        between = f" (95 %: {interval.low:.2f} to {interval.high:.2f})" if interval else ""
        lines.append(
            f"{speed_up.lane} decodes {units.ratio(ratio.value)}{between} as fast as "
            f"{result.plan.lanes[0].name}, {load_text(speed_up.level)}"
            f"{', together' if len(speed_up.together) > 1 else ''}"
        )
    lines += [
        f"{each.lane}: TPOT {units.ratio(each.tpot_ratio.value)} with the others, {load_text(each.level)}"
        for each in result.interference
    ]
    lines += [f"{lane} is saturated at concurrency {at}" for lane, at in result.saturation.items()]
    lines += dict.fromkeys(f"{point.lane}: {note}" for point in result.points for note in point.notes)
    return lines


def utilisation_text(utilisation: BandwidthUtilisation) -> str:
    """How close a lane came to the limit that memory bandwidth sets."""
    return (
        f"{utilisation.lane} decodes at {utilisation.share:.0%} of what memory bandwidth allows (theory: "
        f"{units.tok_per_s(utilisation.limit.decode_tok_per_s)}, bandwidth {utilisation.bandwidth_source})"
    )


def comparison_table(comparison: Comparison) -> Table:
    """A row a figure and a point that several runs have; differences to the baseline in per cent."""
    table = Table("lane", "load", "figure")
    for place, result in enumerate(comparison.runs):
        name = f"{result.run.title}\n{result.run.id}"
        table.add_column(f"{name}\nbaseline" if place == comparison.baseline else name, justify="right")
    shared = [each for each in comparison.points if sum(point is not None for point in each.points) > 1]
    for each in shared:
        lane = " / ".join(dict.fromkeys(name for name in each.lanes if name))
        lane += " +" if each.together else ""
        for figure in FIGURES:
            values = each.values(figure)
            if all(value is None for value in values):
                continue
            changes = each.change_ratios(figure, comparison.baseline)
            cells = [
                _changed(figure, value, None if place == comparison.baseline else change)
                for place, (value, change) in enumerate(zip(values, changes, strict=True))
            ]
            table.add_row(lane, load_text(each.level), figure, *cells)
    return table


def difference_table(comparison: Comparison) -> Table:
    """What else was different, a row each."""
    table = Table("what", *(result.run.id for result in comparison.runs))
    for difference in (*comparison.settings, *comparison.environment):
        table.add_row(difference.path, *difference.values)
    return table


def load_text(level: LoadLevel) -> str:
    """`concurrency 4` or `2.5 req/s`."""
    if level.concurrency is not None:
        return f"concurrency {level.concurrency}"
    return f"{level.rate_req_per_s:g} req/s"


def _cells(point: Point) -> list[str]:
    speed = point.system_tok_per_s
    return [
        point.lane + (" +" if len(point.together) > 1 else ""),
        f"{point.level.concurrency or ''}" or f"{point.level.rate_req_per_s:g}/s",
        units.count(point.requests.ok),
        f"[red]{point.requests.failed:,}[/red]" if point.requests.failed else "0",
        _p50_p95(point.ttft_s),
        _p50_p95(point.tpot_s),
        _p50_p95(point.e2e_s),
        units.UNKNOWN if speed is None else f"{speed:,.0f}" if speed >= 100 else f"{speed:.1f}",
        _number(point.req_per_s),
    ]


def _p50_p95(found: Distribution | None) -> str:
    if found is None:
        return units.UNKNOWN
    return f"{units.milliseconds(found.p50)}\n{_tail(found)}"


def _tail(found: Distribution) -> str:
    """p95, dimmed where too few requests tell it."""
    p95 = units.milliseconds(found.p95)
    return p95 if found.n >= P95_MIN_N else f"[dim]{p95}[/dim]"


def _changed(figure: str, value: float | None, change_ratio: float | None) -> str:
    text = figure_text(figure, value)
    if change_ratio is None:
        return text
    better = (change_ratio > 0) == (figure in MORE_IS_BETTER)
    colour = "green" if better else "red"
    return f"{text} [{colour}]{change_ratio:+.1%}[/{colour}]"


def _number(value: float | None) -> str:
    return units.UNKNOWN if value is None else f"{value:.2f}"
