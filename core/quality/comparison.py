"""Quality runs side by side: what each lane's figures were, and why lanes and runs may not compare."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from core.domain.fairness import Flag, before, places
from core.domain.turns import RequestPlan
from core.i18n import N_, Text
from core.quality.results import LaneQuality, Outcome, QualityResult

MAX_RUNS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedLane:
    """The lane of one name in each run; None where a run has none."""

    name: str
    lanes: tuple[LaneQuality | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityComparison:
    """In the order in which the runs were named."""

    runs: tuple[QualityResult, ...]
    lanes: tuple[ComparedLane, ...]
    warnings: tuple[Text, ...]


def compare(runs: Sequence[QualityResult]) -> QualityComparison:
    names = dict.fromkeys(lane.name for run in runs for lane in run.lanes)
    return QualityComparison(
        runs=tuple(runs),
        lanes=tuple(
            ComparedLane(
                name=name,
                lanes=tuple(next((lane for lane in run.lanes if lane.name == name), None) for run in runs),
            )
            for name in names
        ),
        warnings=tuple(warning for warning in (_warning(what, runs) for what in _ASPECTS) if warning),
    )


def figures(lane: LaneQuality) -> Mapping[str, float | None]:
    """A lane's figures by the name in JSON."""
    tasks, agreement = lane.tasks, lane.agreement
    values: dict[str, float | None] = {
        "right": tasks.outcomes[Outcome.RIGHT] if tasks else None,
        "accuracy_ratio": tasks.accuracy_ratio if tasks else None,
        "identical_answers": agreement.identical if agreement else None,
        "token_ratio": agreement.token_ratio if agreement else None,
        "decode_tok_per_s_p50": lane.decode_tok_per_s_p50,
        "memory_bytes": lane.memory_bytes,
    }
    for text in lane.texts:
        values[f"nats_per_token.{text.text}"] = text.nats_per_token
        values[f"difference_nats.{text.text}"] = text.difference.value if text.difference else None
    return values


_ASPECTS: Mapping[Text, Callable[[QualityResult], object]] = {
    N_("The runs have different tasks."): lambda run: run.plan.tasks,
    N_("The runs have different prompts."): lambda run: (run.plan.prompts, run.plan.answer_tokens),
    N_("The runs have different texts."): lambda run: (
        run.plan.texts,
        run.plan.text_tokens,
        run.plan.window_tokens,
    ),
    N_("The runs have different reference lanes."): lambda run: run.plan.reference,
    N_("The runs were made on different machines."): lambda run: run.run.machine and run.run.machine.host,
    N_("The runs were made by different versions of LMDyno."): lambda run: run.run.lmdyno,
}


def _warning(warning: Text, runs: Sequence[QualityResult]) -> Text | None:
    values = [_ASPECTS[warning](run) for run in runs]
    return warning if any(value != values[0] for value in values) else None


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
    subject: str, lanes: Sequence[LaneQuality], same: Callable[[LaneQuality], bool | None]
) -> Flag | None:
    known = {lane.name: same(lane) for lane in lanes}
    if all(value is not False for value in known.values()):
        return None
    words = {True: N_("the reference's"), False: N_("another"), None: N_("unknown")}
    return Flag(subject, {name: words[value] for name, value in known.items()})


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
