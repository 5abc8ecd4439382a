"""Show a result, once for the page, the terminal and the report alike: tables, and remarks on what it means.

A table is text with a tone per cell and knows nothing of how it is drawn; `core.ui`, `core.cli` and
`core.reports` each have a renderer. Remarks are a result's verdict, what weakens it, and what must be known
to read it. None claims what its interval does not support.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from core import units
from core.bench.passes import unequal
from core.bench.results.points import BEFORE_SENDING, IN_THE_ENGINE, Point
from core.bench.results.result import BenchResult, Interference, SpeedUp
from core.bench.statistics import P90_MIN_N, P95_MIN_N, P99_MIN_N, Distribution, Ratio
from core.domain import fairness
from core.i18n import _, ngettext

LATENCIES: Mapping[str, Callable[[Point], Distribution | None]] = {
    "TTFT": lambda point: point.ttft_s,
    "TPOT": lambda point: point.tpot_s,
    "ITL": lambda point: point.itl_s,
    "ICL": lambda point: point.icl_s,
    "E2E": lambda point: point.e2e_s,
}
"""The latencies of a point, by the field's abbreviations."""


class Tone(StrEnum):
    """The emphasis of a cell."""

    PLAIN = "plain"
    FAINT = "faint"
    """Too few requests for what it shows."""
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Cell:
    text: str
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The figures of one lane."""

    lane: str
    """Its name, for a colour and the first column."""
    is_together: bool
    cells: tuple[Cell, ...]
    """One per column after the lane's."""

    @property
    def lane_text(self) -> str:
        return _("{lane} (together)", lane=self.lane) if self.is_together else self.lane


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under a head whose first column is the lane."""

    title: str
    head: tuple[str, ...]
    words: int
    """How many of the first columns hold words, not numbers."""
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    """What must be known to read it, a line each."""


def points_table(result: BenchResult) -> Table:
    """A row per lane and load; percentiles of too few requests are faint."""
    has_limits = result.plan.limits is not None
    head = [_("lane"), _("load"), _("answered"), _("failed")]
    head += ["TTFT p50", "p95", "TPOT p50", "p95", "E2E p50", "p95", _("system speed"), _("requests/s")]
    if has_limits:
        head.append(_("goodput/s"))
    rows = []
    for point in result.points:
        failed = point.requests.failed
        cells = [
            Cell(point.level.short_label),
            Cell(units.count(point.requests.ok)),
            Cell(units.count(failed), Tone.BAD if failed else Tone.PLAIN),
            *(
                cell
                for latency_s in (point.ttft_s, point.tpot_s, point.e2e_s)
                for cell in _p50_p95(latency_s)
            ),
            Cell(units.tok_per_s(point.system_tok_per_s)),
            Cell(f"{point.req_per_s:.2f}"),
        ]
        if has_limits:
            cells.append(Cell(_rate(point.goodput_req_per_s)))
        rows.append(_row(point, cells))
    return Table(title=_("Results"), head=tuple(head), words=1, rows=tuple(rows))


def queueing_table(result: BenchResult) -> Table | None:
    """Return how long requests waited before they were sent and in the engine; None where neither
    is known.
    """
    if not any(point.delay_s or point.queue_s for point in result.points):
        return None
    rows = []
    for point in result.points:
        delay_s, queue = point.delay_s, point.queue_s
        cells = [
            Cell(point.level.short_label),
            *_p50_p95(delay_s),
            Cell(units.count(delay_s.n if delay_s else None)),
            Cell(units.milliseconds(queue.mean_s if queue else None)),
            Cell(units.count(queue.n if queue else None)),
        ]
        rows.append(_row(point, cells))
    return Table(
        title=_("Queueing"),
        head=(_("lane"), _("load"), _("before sending, p50"), "p95", "n", _("in the engine, mean"), "n"),
        words=1,
        rows=tuple(rows),
        notes=(
            _("Before sending: {definition}", definition=_(BEFORE_SENDING)),
            _("In the engine: {definition}", definition=_(IN_THE_ENGINE)),
        ),
    )


def distributions_table(result: BenchResult) -> Table:
    """A row per point and latency: mean with its interval, percentiles and n."""
    rows = [
        _row(point, _distribution_cells(point, name, distribution))
        for point in result.points
        for name, latency_of in LATENCIES.items()
        if (distribution := latency_of(point)) is not None
    ]
    head = (_("lane"), _("load"), _("latency"), "n", _("mean"), _("95% interval"), "p50", "p90", "p95", "p99")
    return Table(title=_("All latencies"), head=(*head, _("max")), words=3, rows=tuple(rows))


def repeats_table(result: BenchResult) -> Table | None:
    """Return how well the repeats agree, each of which counts as one value; None for a run without
    repeats.
    """
    if not any(point.repeats > 1 for point in result.points):
        return None
    names = {"ttft_s": "TTFT", "tpot_s": "TPOT", "system_tok_per_s": _("system speed")}
    rows = []
    for point in result.points:
        for name, statistics in point.stability.items():
            text = units.tok_per_s if name == "system_tok_per_s" else units.milliseconds
            interval = statistics.interval
            cells = [
                Cell(point.level.short_label),
                Cell(names[name]),
                Cell(units.count(statistics.n)),
                Cell(text(statistics.mean)),
                Cell(_between(text(interval.low), text(interval.high)) if interval else units.UNKNOWN),
                Cell(units.UNKNOWN if statistics.cv_ratio is None else f"{statistics.cv_ratio:.1%}"),
                Cell(_(statistics.stability or "")),
            ]
            rows.append(_row(point, cells))
    head = (_("lane"), _("load"), _("metric"), "n", _("mean"), _("95% interval"), "CV", _("stability"))
    return Table(title=_("Across repeats"), head=head, words=3, rows=tuple(rows))


def resources_table(result: BenchResult) -> Table:
    """Return what each point took: tokens, time, energy and memory."""
    rows = []
    for point in result.points:
        cells = [
            Cell(point.level.short_label),
            Cell(units.UNKNOWN if point.prompt_tokens is None else f"{point.prompt_tokens:.1f}"),
            Cell(units.count(point.output_tokens)),
            Cell(units.duration(point.duration_s)),
            Cell(units.joules(point.energy_j)),
            Cell(units.joules(point.energy_j_per_token)),
            Cell(units.gib(point.peak_gpu_bytes)),
            Cell(units.gib(point.peak_resident_bytes)),
        ]
        rows.append(_row(point, cells))
    head = [_("lane"), _("load"), _("prompt tokens"), _("output tokens"), _("duration"), _("energy")]
    head += [_("energy per token"), _("peak GPU memory"), _("peak host memory")]
    return Table(title=_("Resources"), head=tuple(head), words=1, rows=tuple(rows))


def few_requests_note() -> str:
    """Return what a faint percentile means."""
    return _(
        "Grey: too few requests for that percentile (p95 needs at least {p95}, p99 at least {p99}).",
        p95=P95_MIN_N,
        p99=P99_MIN_N,
    )


def _row(point: Point, cells: Sequence[Cell]) -> Row:
    return Row(lane=point.lane, is_together=point.is_together, cells=tuple(cells))


def _distribution_cells(point: Point, name: str, latency_s: Distribution) -> list[Cell]:
    ms, interval = units.milliseconds, latency_s.interval
    return [
        Cell(point.level.short_label),
        Cell(name),
        Cell(units.count(latency_s.n)),
        Cell(ms(latency_s.mean)),
        Cell(_between(ms(interval.low), ms(interval.high)) if interval else units.UNKNOWN),
        Cell(ms(latency_s.p50)),
        _percentile(latency_s.p90, latency_s.n, P90_MIN_N),
        _percentile(latency_s.p95, latency_s.n, P95_MIN_N),
        _percentile(latency_s.p99, latency_s.n, P99_MIN_N),
        Cell(ms(latency_s.high)),
    ]


def _p50_p95(latency_s: Distribution | None) -> tuple[Cell, Cell]:
    if latency_s is None:
        return Cell(units.UNKNOWN), Cell(units.UNKNOWN)
    return Cell(units.milliseconds(latency_s.p50)), _percentile(latency_s.p95, latency_s.n, P95_MIN_N)


def _percentile(value_s: float, n: int, needed: int) -> Cell:
    return Cell(units.milliseconds(value_s), Tone.PLAIN if n >= needed else Tone.FAINT)


def _between(low: str, high: str) -> str:
    return _("{low} to {high}", low=low, high=high)


def _rate(value: float | None) -> str:
    return units.UNKNOWN if value is None else f"{value:.2f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Remarks:
    """Sentences in the reader's language."""

    verdict: tuple[str, ...]
    """How the lanes compare."""
    warnings: tuple[str, ...]
    """What makes the comparison unfair or incomplete."""
    notes: tuple[str, ...]
    """How the figures were taken."""


def remarks(result: BenchResult) -> Remarks:
    """Everything that is to be said about a run beside its figures."""
    return Remarks(
        verdict=(
            *(_speed_up(item, result.plan.lanes[0].name) for item in result.speed_ups),
            *(_interference(item) for item in result.interference),
            *(
                _("{lane}: throughput stops rising at concurrency {n}.", lane=lane, n=concurrency)
                for lane, concurrency in result.saturation.items()
            ),
        ),
        warnings=tuple(
            dict.fromkeys(
                (
                    *_left_out(result),
                    *_failures(result),
                    *unequal(result.plan),
                    *_places(result),
                    *_lengths(result),
                )
            )
        ),
        notes=tuple(
            dict.fromkeys(
                _("{lane}: {note}", lane=point.lane, note=_(note))
                for point in result.points
                for note in point.notes
            )
        ),
    )


def ratio_text(ratio: Ratio) -> str:
    """Such as `1.36× (95%: 1.30 to 1.42, n = 24)`; the smaller n of the two samples."""
    if ratio.interval is None:
        return _("{ratio} (no interval, n = {n})", ratio=units.ratio(ratio.value), n=ratio.n)
    return _(
        "{ratio} (95%: {low} to {high}, n = {n})",
        ratio=units.ratio(ratio.value),
        low=f"{ratio.interval.low:.2f}",
        high=f"{ratio.interval.high:.2f}",
        n=ratio.n,
    )


def _speed_up(speed_up: SpeedUp, baseline: str) -> str:
    values = {"lane": speed_up.lane, "baseline": baseline, "load": speed_up.level.label}
    ratio = speed_up.tpot_ratio
    if ratio.interval is None:
        return _(
            "{lane} and {baseline}, {load}: not decided. {n} request per lane has no interval; measure more.",
            n=ratio.n,
            **values,
        )
    if not ratio.is_clear:
        return _(
            "{lane} and {baseline}, {load}: no clear difference in decode speed, {ratio}.",
            ratio=ratio_text(ratio),
            **values,
        )
    if speed_up.is_together:
        return _(
            "{lane} decodes {ratio} as fast as {baseline}, {load}, all lanes together.",
            ratio=ratio_text(ratio),
            **values,
        )
    return _("{lane} decodes {ratio} as fast as {baseline}, {load}.", ratio=ratio_text(ratio), **values)


def _interference(interference: Interference) -> str:
    ratio = interference.tpot_ratio
    values = {"lane": interference.lane, "load": interference.level.label}
    if not ratio.is_clear:
        return _(
            "{lane}: no clear change of TPOT when the other lanes run too, {load}, {ratio}.",
            ratio=ratio_text(ratio),
            **values,
        )
    if ratio.value > 1:
        return _(
            "{lane} slows down when the other lanes run too, {load}: TPOT {ratio}.",
            ratio=ratio_text(ratio),
            **values,
        )
    return _(
        "{lane} is faster when the other lanes run too, {load}: TPOT {ratio}.",
        ratio=ratio_text(ratio),
        **values,
    )


def _left_out(result: BenchResult) -> list[str]:
    return [
        _(
            "{lane} was excluded: {problem} {hint}",
            lane=facts.lane.name,
            problem=_(facts.error.message),
            hint=_(facts.error.hint),
        )
        for facts in result.run.lanes
        if facts.error
    ]


def _failures(result: BenchResult) -> list[str]:
    return [
        ngettext(
            "{lane}, {load}: {n} request failed with {code}.",
            "{lane}, {load}: {n} requests failed with {code}.",
            number,
            lane=point.lane,
            load=point.level.label,
            code=code,
        )
        for point in result.points
        for code, number in point.requests.by_code.items()
    ]


def _places(result: BenchResult) -> list[str]:
    flags = fairness.places({facts.lane.name: facts.place for facts in result.run.lanes if not facts.error})
    return [_("Differs between lanes: {difference}.", difference=flag.text) for flag in flags]


def _lengths(result: BenchResult) -> list[str]:
    """Answers that are not as long as was asked."""
    return [
        _(
            "{lane}, {load}: {number} of {total} answers are not {asked} tokens long ({low} to {high}). E2E "
            "latency and throughput are not comparable.",
            lane=point.lane,
            load=point.level.label,
            number=point.odd_lengths.number,
            total=point.requests.ok,
            asked=result.plan.workload.output_tokens,
            low=point.odd_lengths.low,
            high=point.odd_lengths.high,
        )
        for point in result.points
        if point.odd_lengths
    ]
