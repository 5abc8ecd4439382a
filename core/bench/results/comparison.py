"""Runs side by side: figures with their difference to a baseline, and what else was different."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from core import units
from core.bench.plan import Workload
from core.bench.results.points import Point
from core.bench.results.result import BenchResult
from core.bench.statistics import Interval
from core.codec import encode
from core.domain.runs import LoadLevel
from core.errors import InputError
from core.i18n import N_, Text, _

MAX_RUNS = 6
SCHEMA_VERSION = 2
"""Of the JSON document."""
_PROMPT_LENGTHS_DIFFER = 0.02

FIGURES: Mapping[str, Callable[[Point], float | None]] = {
    "ttft_s.p50": lambda point: point.ttft_s.p50 if point.ttft_s else None,
    "ttft_s.p95": lambda point: point.ttft_s.p95 if point.ttft_s else None,
    "tpot_s.mean": lambda point: point.tpot_s.mean if point.tpot_s else None,
    "tpot_s.p95": lambda point: point.tpot_s.p95 if point.tpot_s else None,
    "e2e_s.mean": lambda point: point.e2e_s.mean if point.e2e_s else None,
    "system_tok_per_s": lambda point: point.system_tok_per_s,
    "req_per_s": lambda point: point.req_per_s,
    "goodput_req_per_s": lambda point: point.goodput_req_per_s,
    "energy_j_per_token": lambda point: point.energy_j_per_token,
}
"""What is compared, by the name in JSON."""

FIGURE_NAMES: Mapping[str, Text] = {
    "ttft_s.p50": N_("TTFT, p50"),
    "ttft_s.p95": N_("TTFT, p95"),
    "tpot_s.mean": N_("TPOT, mean"),
    "tpot_s.p95": N_("TPOT, p95"),
    "e2e_s.mean": N_("E2E, mean"),
    "system_tok_per_s": N_("System speed, tok/s"),
    "req_per_s": N_("Requests per second"),
    "goodput_req_per_s": N_("Goodput, requests per second"),
    "energy_j_per_token": N_("Energy per token, J"),
}
"""The same for people."""

_INTERVALS: Mapping[str, Callable[[Point], tuple[float, Interval | None] | None]] = {
    "tpot_s.mean": lambda point: (point.tpot_s.mean, point.tpot_s.interval) if point.tpot_s else None,
    "e2e_s.mean": lambda point: (point.e2e_s.mean, point.e2e_s.interval) if point.e2e_s else None,
    "system_tok_per_s": lambda point: (
        (found.mean, found.interval) if (found := point.stability.get("system_tok_per_s")) else None
    ),
}
"""The figures that come with a 95 % interval: means over requests, and the system speed over repeats."""

MEANS = frozenset({"tpot_s.mean", "e2e_s.mean"})
"""Means over requests: without an interval there were too few requests for any claim."""

MORE_IS_BETTER = frozenset({"system_tok_per_s", "req_per_s", "goodput_req_per_s"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedPoint:
    """The points of several runs that are compared; None where a run has no such point."""

    lanes: tuple[str, ...]
    """The lane's name in each run, "" where it has none."""
    level: LoadLevel
    together: bool
    points: tuple[Point | None, ...]
    """In the order of the runs."""

    def values(self, figure: str) -> tuple[float | None, ...]:
        """One of `FIGURES` in each run."""
        return tuple(FIGURES[figure](point) if point else None for point in self.points)

    def change_ratios(self, figure: str, baseline: int) -> tuple[float | None, ...]:
        """By how much each run's figure differs: 0.1 is 10 % more than the baseline's."""
        values = self.values(figure)
        base = values[baseline]
        return tuple(value / base - 1 if value is not None and base else None for value in values)

    def change_intervals(self, figure: str, baseline: int) -> tuple[Interval | None, ...]:
        """The 95 % interval of each change ratio; None for figures without one, and for the baseline itself.

        From the intervals of the two figures, whose errors are independent: their relative half widths add
        up in squares (first-order propagation for a quotient, JCGM 100:2008, 5.1.6).
        """
        widths = [_relative_half_width(figure, point) for point in self.points]
        base = widths[baseline]
        intervals: list[Interval | None] = []
        changes = self.change_ratios(figure, baseline)
        for place, (change, width) in enumerate(zip(changes, widths, strict=True)):
            if place == baseline or change is None or width is None or base is None:
                intervals.append(None)
                continue
            half = (1 + change) * math.hypot(width, base)
            intervals.append(Interval(change - half, change + half))
        return tuple(intervals)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that may not be the same in all runs, by its path, such as `plan.workload.output_tokens`."""

    path: str
    values: tuple[str, ...]
    """In the order of the runs; "–" where a run has no such thing."""
    differs: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two to six runs side by side."""

    runs: tuple[BenchResult, ...]
    baseline: int
    """The place of the run that the others are compared with."""
    points: tuple[ComparedPoint, ...]
    settings: tuple[Difference, ...]
    """Of the plans: lanes, load, workload."""
    environment: tuple[Difference, ...]
    warnings: tuple[Text, ...]
    """Why the figures can't simply be compared; empty if they can."""


def compare(
    runs: Sequence[BenchResult], baseline: int = 0, *, pairs: Mapping[str, str] | None = None
) -> Comparison:
    """Compare 2 to 6 runs; raises InputError for another number of them.

    Lanes of the same name are compared. `pairs` names, for a lane that the baseline doesn't have, the
    baseline's lane that it is compared with.
    """
    if not 2 <= len(runs) <= MAX_RUNS:
        raise InputError(
            N_("Can't compare {n} runs.", n=len(runs)),
            hint=N_("Choose two to {most} different runs.", most=MAX_RUNS),
        )
    plans = [_plan_facts(run) for run in runs]
    return Comparison(
        runs=tuple(runs),
        baseline=baseline,
        points=_compared(runs, baseline, _usable(pairs or {}, runs, baseline)),
        settings=_differences(plans),
        environment=_differences([_environment_facts(run) for run in runs]),
        warnings=_warnings(runs),
    )


def unpaired(runs: Sequence[BenchResult], baseline: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Lanes that only the baseline has, and those that only the other runs have."""
    own = [lane.name for lane in runs[baseline].plan.lanes]
    others = dict.fromkeys(
        lane.name for place, run in enumerate(runs) if place != baseline for lane in run.plan.lanes
    )
    return (
        tuple(name for name in own if name not in others),
        tuple(name for name in others if name not in own),
    )


def figure_text(figure: str, value: float | None) -> str:
    """A value of one of `FIGURES` for people."""
    if value is None:
        return units.UNKNOWN
    return units.milliseconds(value) if "_s." in figure else f"{value:,.4g}"


def change_text(change_ratio: float | None, interval: Interval | None) -> str:
    """Such as `+3.1 % (+1.0 % to +5.2 %)`; "–" where unknown."""
    if change_ratio is None or interval is None:
        return units.percent(change_ratio)
    return _(
        "{change} ({low} to {high})",
        change=units.percent(change_ratio),
        low=units.percent(interval.low),
        high=units.percent(interval.high),
    )


def known_figures(comparison: Comparison) -> tuple[str, ...]:
    """Those of `FIGURES` that at least two of the runs have at the same lane and load."""
    return tuple(
        figure
        for figure in FIGURES
        if any(sum(value is not None for value in each.values(figure)) > 1 for each in comparison.points)
    )


def everything(runs: Sequence[BenchResult]) -> tuple[tuple[Difference, ...], tuple[Difference, ...]]:
    """All settings, and all that is known of the environment, also where the runs don't differ."""
    return (
        _side_by_side([_plan_facts(run) for run in runs]),
        _side_by_side([_environment_facts(run) for run in runs]),
    )


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """A comparison as a JSON document: its points with all figures, and the differences."""
    return {
        "schema_version": SCHEMA_VERSION,
        "runs": [result.run.id for result in comparison.runs],
        "baseline": comparison.runs[comparison.baseline].run.id,
        "warnings": comparison.warnings,
        "differences": {"settings": comparison.settings, "environment": comparison.environment},
        "points": [
            {"lanes": point.lanes, "level": point.level, "together": point.together, "points": point.points}
            for point in comparison.points
        ],
    }


def _usable(pairs: Mapping[str, str], runs: Sequence[BenchResult], baseline: int) -> dict[str, str]:
    """Pairs of lanes that exist and have no namesake on the other side; each baseline lane at most once."""
    own, others = unpaired(runs, baseline)
    usable: dict[str, str] = {}
    for name, partner in pairs.items():
        if name in others and partner in own and partner not in usable.values():
            usable[name] = partner
    return usable


def _relative_half_width(figure: str, point: Point | None) -> float | None:
    if point is None or figure not in _INTERVALS:
        return None
    value, interval = _INTERVALS[figure](point) or (0.0, None)
    return (interval.high - interval.low) / 2 / value if interval and value else None


def _compared(
    runs: Sequence[BenchResult], baseline: int, pairs: Mapping[str, str]
) -> tuple[ComparedPoint, ...]:
    """Points of the same lane and load, the baseline's first; lanes of other names only where `pairs` says
    so."""
    keyed = [
        {(pairs.get(point.lane, point.lane), point.is_together, point.level): point for point in run.points}
        for run in runs
    ]
    keys = dict.fromkeys(key for points in (keyed[baseline], *keyed) for key in points)
    return tuple(
        ComparedPoint(
            lanes=tuple(point.lane if (point := points.get(key)) else "" for points in keyed),
            level=key[2],
            together=key[1],
            points=tuple(points.get(key) for points in keyed),
        )
        for key in keys
    )


def _warnings(runs: Sequence[BenchResult]) -> tuple[Text, ...]:
    warnings: list[Text] = []
    workloads = [run.plan.workload for run in runs]
    if len({replace(workload, images=(), vary_images=True) for workload in workloads}) > 1:
        warnings.append(N_("The workloads differ: prompts or output lengths are not the same."))
    if len({_images(workload) for workload in workloads}) > 1:
        warnings.append(
            N_("The images differ, or not all runs have any: TTFT includes the engine's work on them.")
        )
    if len({run.plan.load.kind for run in runs}) > 1:
        warnings.append(N_("The loads differ: closed and open loops measure different things."))
    lengths = [point.prompt_tokens for run in runs for point in run.points if point.prompt_tokens is not None]
    if lengths and max(lengths) > min(lengths) * (1 + _PROMPT_LENGTHS_DIFFER):
        warnings.append(
            N_(
                "Prompt length differs: {low} to {high} tokens on average.",
                low=f"{min(lengths):.0f}",
                high=f"{max(lengths):.0f}",
            )
        )
    if len({run.run.machine.host if run.run.machine else None for run in runs}) > 1:
        warnings.append(N_("The runs were measured on different machines."))
    warnings += _served_differently(runs)
    return tuple(warnings)


def _served_differently(runs: Sequence[BenchResult]) -> list[Text]:
    """Lanes of one name that are not the same engine, model or server in all runs."""
    served: dict[str, set[tuple[object, ...]]] = {}
    for run in runs:
        for lane in run.plan.lanes:
            served.setdefault(lane.name, set()).add((lane.kind, lane.model, lane.endpoint, lane.weights))
    return [
        N_("{lane} is not the same engine, model, or server in all runs.", lane=name)
        for name, kinds in served.items()
        if len(kinds) > 1
    ]


def _images(workload: Workload) -> tuple[bool, tuple[str, ...]]:
    """Return what makes the images of two workloads the same; their names don't matter."""
    hashes = tuple(image.sha256 for image in workload.images)
    return bool(hashes) and workload.vary_images, hashes


def _plan_facts(result: BenchResult) -> dict[str, str]:
    plan = json.loads(encode(result.plan))
    for name in ("id", "created_at", "title"):
        del plan[name]
    plan["lanes"] = {lane["name"]: lane for lane in plan["lanes"]}
    plan["workload"]["images"] = [
        f"{image.sha256[:12]} ({image.width_px} × {image.height_px} px)"
        for image in result.plan.workload.images
    ]
    return {"plan.lanes": ", ".join(plan["lanes"]), **dict(_flat("plan", plan))}


def _environment_facts(result: BenchResult) -> dict[str, str]:
    run = result.run
    served = {
        facts.lane.name: {
            "engine_version": facts.engine_version,
            "device": facts.device,
            "served_model": facts.served_model,
            "node": facts.place.node if facts.place else None,
            "between_meter_and_engine": facts.place.path if facts.place else None,
            "prompts": facts.prompts,
        }
        for facts in run.lanes
    }
    machine = json.loads(encode(run.machine)) if run.machine else {}
    return dict(_flat("", {"lmdyno": run.lmdyno, "machine": machine, "lanes": served}))


def _flat(path: str, value: Any) -> list[tuple[str, str]]:  # noqa: ANN401 - any JSON
    if isinstance(value, dict):
        return [pair for key, inner in value.items() for pair in _flat(f"{path}.{key}".lstrip("."), inner)]
    if isinstance(value, list):
        return [(path, ", ".join(str(item) for item in value))]
    return [(path, "–" if value is None else str(value))]


def _side_by_side(facts: Sequence[Mapping[str, str]]) -> tuple[Difference, ...]:
    paths = dict.fromkeys(path for each in facts for path in each)
    return tuple(
        Difference(
            path=path,
            values=tuple(each.get(path, "–") for each in facts),
            differs=_differs(path, [each.get(path) for each in facts]),
        )
        for path in paths
    )


def _differs(path: str, values: Sequence[str | None]) -> bool:
    """A lane that a run doesn't have is one difference, in the list of lanes, not one for each setting."""
    of_a_lane = path.removeprefix("plan.").startswith("lanes.")
    return len({value for value in values if value is not None or not of_a_lane}) > 1


def _differences(facts: Sequence[Mapping[str, str]]) -> tuple[Difference, ...]:
    return tuple(row for row in _side_by_side(facts) if row.differs)
