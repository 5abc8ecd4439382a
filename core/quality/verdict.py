"""What a quality run says of its lanes: figures side by side, a verdict in sentences, and the worst items.

Lanes and runs that may not compare are named with the reason. A difference counts if its interval leaves out
0 and it is larger than the numerical noise: that between the control lanes and the reference, and at least
0.002 nats, by which the same weights in 16 bits differ between engines. Right answers count as different at
p < 0.05 by McNemar's test. The worst items are tasks that a lane loses, and answers that differ earliest from
the reference's.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from core import units
from core.domain.fairness import Flag, before, places
from core.domain.runs import Prompted, QualityAnswer, QualityRecord
from core.domain.turns import RequestPlan
from core.i18n import N_, Text
from core.quality.paired import Piece, diff
from core.quality.results import LaneQuality, Outcome, QualityResult, Role, outcome
from core.quality.tasks import TaskItem

MAX_RUNS = 6

NOISE_NATS = 0.002
SIGNIFICANT = 0.05


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


class Level(StrEnum):
    REFERENCE = "reference"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """Nothing of it could be compared."""
    SAME = "same"
    WORSE = "worse"
    BETTER = "better"
    MIXED = "mixed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A sentence on a lane, and those that give its reasons."""

    lane: str
    level: Level
    sentence: Text
    reasons: tuple[Text, ...] = ()


def verdicts(result: QualityResult) -> tuple[Verdict, ...]:
    """One a lane, in the plan's order."""
    return tuple(_verdict(result, lane) for lane in result.lanes)


def noise_nats(result: QualityResult, text: str) -> float:
    """Return how far apart lanes with the same weights are on a text; the least that counts as a
    difference.
    """
    controls = [
        abs(score.difference.value)
        for lane in result.lanes
        if lane.role is Role.CONTROL and (score := lane.text(text)) and score.difference
    ]
    return max([NOISE_NATS, *controls])


def _verdict(result: QualityResult, lane: LaneQuality) -> Verdict:
    reference = result.reference.name
    if lane.role is Role.REFERENCE:
        return Verdict(
            lane=lane.name,
            level=Level.REFERENCE,
            sentence=N_("{lane} is the reference.", lane=lane.name),
            reasons=tuple(_own_figures(lane)),
        )
    if lane.facts.error is not None:
        return Verdict(
            lane=lane.name,
            level=Level.FAILED,
            sentence=N_(
                "{lane} couldn't take part: {problem}", lane=lane.name, problem=lane.facts.error.message
            ),
        )
    signs = list(_signs(result, lane))
    level = _level(signs)
    return Verdict(
        lane=lane.name,
        level=level,
        sentence=_SENTENCES[level].filled(lane=lane.name, reference=reference),
        reasons=tuple(_reasons(result, lane)),
    )


_SENTENCES = {
    Level.UNKNOWN: N_("Nothing from {lane} could be compared with {reference}."),
    Level.SAME: N_("{lane} shows no measurable difference from {reference}."),
    Level.WORSE: N_("{lane} is measurably worse than {reference}."),
    Level.BETTER: N_("{lane} is measurably better than {reference}."),
    Level.MIXED: N_("{lane} is better than {reference} by one measure and worse by another."),
}


def _level(signs: list[int]) -> Level:
    if not signs:
        return Level.UNKNOWN
    if 1 in signs and -1 in signs:
        return Level.MIXED
    return Level.WORSE if -1 in signs else Level.BETTER if 1 in signs else Level.SAME


def _signs(result: QualityResult, lane: LaneQuality) -> Iterator[int]:
    """1 for each measure that says better, -1 for worse, 0 for no difference."""
    for text in lane.texts:
        if text.difference is None:
            continue
        is_noise = abs(text.difference.value) <= noise_nats(result, text.text)
        yield 0 if is_noise or not text.difference.is_clear else (-1 if text.difference.value > 0 else 1)
    if lane.tasks is not None and lane.tasks.difference is not None:
        test = lane.tasks.difference
        yield 0 if test.p_value >= SIGNIFICANT else (1 if test.difference_ratio > 0 else -1)
    if lane.agreement is not None and lane.agreement.n and lane.agreement.identical == lane.agreement.n:
        yield 0


def _own_figures(lane: LaneQuality) -> Iterator[Text]:
    if lane.tasks is not None and lane.tasks.asked:
        yield N_(
            "{right} of {asked} tasks are correct.",
            right=lane.tasks.outcomes[Outcome.RIGHT],
            asked=lane.tasks.asked,
        )


def _reasons(result: QualityResult, lane: LaneQuality) -> Iterator[Text]:
    if lane.tasks is not None and lane.tasks.difference is not None:
        test = lane.tasks.difference
        yield N_(
            "{right} of {asked} tasks are correct. Compared with {reference}, {lost} are lost and {won} "
            "are won (p = {p}).",
            right=lane.tasks.outcomes[Outcome.RIGHT],
            asked=lane.tasks.asked,
            reference=result.reference.name,
            lost=test.only_reference,
            won=test.only_lane,
            p=f"{test.p_value:.2g}",
        )
    for text in lane.texts:
        if text.difference is not None and (interval := text.difference.interval):
            yield N_(
                "{text}: {difference} nats per token ({low} to {high}); noise is {noise}.",
                text=text.text,
                difference=units.nats_apart(text.difference.value),
                low=units.nats_apart(interval.low),
                high=units.nats_apart(interval.high),
                noise=units.nats(noise_nats(result, text.text)),
            )
        elif text.error is not None:
            yield N_("{text}: likelihood unknown. {problem}", text=text.text, problem=text.error.message)
    if lane.agreement is not None and lane.agreement.n:
        yield N_(
            "{identical} of {n} answers are identical; {tokens} of their tokens agree.",
            identical=lane.agreement.identical,
            n=lane.agreement.n,
            tokens=units.share(lane.agreement.token_ratio),
        )
    speed, base = lane.decode_tok_per_s_p50, result.reference.decode_tok_per_s_p50
    if speed and base:
        yield N_("It decodes {ratio} as fast.", ratio=units.ratio(speed / base))


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedAnswer:
    """One question with the reference's answer and a lane's."""

    part: Prompted
    item: int
    question: str
    reference: QualityAnswer
    answer: QualityAnswer
    task: TaskItem | None = None
    reference_outcome: Outcome | None = None
    outcome: Outcome | None = None
    parts_at: int | None = None
    """Of a prompt: the place of the first different token; None if there is none, or it is not known."""

    @property
    def identical(self) -> bool:
        return self.reference.text == self.answer.text

    @property
    def is_lost(self) -> bool:
        """A task that the reference gets right and the lane does not."""
        return self.reference_outcome is Outcome.RIGHT and self.outcome not in (Outcome.RIGHT, None)

    @property
    def is_won(self) -> bool:
        return self.outcome is Outcome.RIGHT and self.reference_outcome not in (Outcome.RIGHT, None)

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """What both answers have in common and where they differ, in words."""
        return diff(_words(self.reference.text), _words(self.answer.text))


def compared_answers(result: QualityResult, record: QualityRecord, lane: str) -> tuple[ComparedAnswer, ...]:
    """All questions that both answered, the worst first: lost tasks, then answers by their parting.

    Identical answers come last.
    """
    reference = _first_answers(record.answers, result.plan.reference)
    answers = _first_answers(record.answers, lane)
    agreement = next((score.agreement for score in result.lanes if score.name == lane), None)
    compared = []
    for (part, item), answer in answers.items():
        theirs = reference.get((part, item))
        if theirs is None:
            continue
        if part is Prompted.TASK:
            task = result.plan.tasks[item]
            compared.append(
                ComparedAnswer(
                    part=part,
                    item=item,
                    question=task.text,
                    reference=theirs,
                    answer=answer,
                    task=task,
                    reference_outcome=outcome(theirs, task),
                    outcome=outcome(answer, task),
                )
            )
            continue
        agreed = agreement.agreements.get(item) if agreement else None
        compared.append(
            ComparedAnswer(
                part=part,
                item=item,
                question=result.plan.prompts[item],
                reference=theirs,
                answer=answer,
                parts_at=agreed.parts_at if agreed else None,
            )
        )
    return tuple(sorted(compared, key=_badness))


def _badness(answer: ComparedAnswer) -> tuple[object, ...]:
    """Smaller is worse; ties stay in the plan's order."""
    never = 10**9
    parts_at = answer.parts_at if answer.parts_at is not None else never
    return (not answer.is_lost, answer.identical, parts_at, answer.part, answer.item)


def _first_answers(answers: Sequence[QualityAnswer], lane: str) -> dict[tuple[Prompted, int], QualityAnswer]:
    return {
        (answer.part, answer.item): answer for answer in answers if answer.lane == lane and answer.repeat == 0
    }


def _words(text: str) -> list[str]:
    """Words with the blank space after them; Chinese characters one by one."""
    words: list[str] = []
    for character in text:
        is_wide = "\u3400" <= character <= "\u9fff"
        if (
            words
            and not is_wide
            and not words[-1][-1].isspace()
            and not "\u3400" <= words[-1][-1] <= "\u9fff"
        ) or (words and character.isspace()):
            words[-1] += character
        else:
            words.append(character)
    return words
