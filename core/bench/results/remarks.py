"""Say what a result means: its verdict, what weakens it, and what must be known to read it.

The page, the terminal and the report show the same sentences. None claims what its interval does not support.
"""

from dataclasses import dataclass

from core import units
from core.bench.planning.wording import unequal
from core.bench.results.result import BenchResult, Interference, SpeedUp
from core.bench.statistics import Ratio
from core.domain import fairness
from core.i18n import _, ngettext


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
