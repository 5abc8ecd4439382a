"""What keeps the lanes of a quality run from being compared as equals; each difference is a flag."""

from collections.abc import Callable, Mapping, Sequence

from core.domain.fairness import Flag, before, places
from core.domain.turns import RequestPlan
from core.i18n import N_
from core.quality.results import LaneQuality, QualityResult


def flags(result: QualityResult) -> tuple[Flag, ...]:
    """Of the lanes' settings first, then what was seen."""
    lanes = result.lanes
    observed = [
        _differs(N_("tokenizer"), lanes, lambda lane: lane.same_tokenizer),
        _differs(N_("chat template"), lanes, lambda lane: lane.same_template),
        _prompts(lanes),
        _failed(lanes),
    ]
    settings = before([RequestPlan(lane=lane.facts.lane, messages=()) for lane in lanes])
    apart = places({lane.name: lane.facts.place for lane in lanes})
    known = (*settings, *(flag for flag in apart if flag not in settings))
    return (*known, *(flag for flag in observed if flag))


def _differs(
    what: str, lanes: Sequence[LaneQuality], same: Callable[[LaneQuality], bool | None]
) -> Flag | None:
    known = {lane.name: same(lane) for lane in lanes}
    if all(value is not False for value in known.values()):
        return None
    words = {True: N_("the reference's"), False: N_("another"), None: N_("unknown")}
    return Flag(what, {name: words[value] for name, value in known.items()})


def _prompts(lanes: Sequence[LaneQuality]) -> Flag | None:
    """Prompts that became another number of tokens; they are part of no comparison."""
    by_lane: Mapping[str, int] = {
        lane.name: (lane.tasks.differing_prompts if lane.tasks else 0)
        + (lane.agreement.differing_prompts if lane.agreement else 0)
        for lane in lanes
    }
    if not any(by_lane.values()):
        return None
    return Flag(N_("prompts of another length, excluded"), {name: str(n) for name, n in by_lane.items()})


def _failed(lanes: Sequence[LaneQuality]) -> Flag | None:
    failed = {
        lane.name: sum(count for outcome, count in lane.tasks.outcomes.items() if outcome == "failed")
        for lane in lanes
        if lane.tasks
    }
    return (
        Flag(N_("failed requests"), {n: str(v) for n, v in failed.items()}) if any(failed.values()) else None
    )
