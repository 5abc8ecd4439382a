"""The verdict of a quality run on a lane, in sentences: is it the same, worse or better than the reference?

A difference counts if its interval leaves out 0 and it is larger than the numerical noise: that between the
control lanes and the reference, and at least 0.002 nats, by which the same weights in 16 bits differ between
engines. Right answers count as different at p < 0.05 by McNemar's test.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from core import units
from core.i18n import N_, Text
from core.quality.results import LaneQuality, Outcome, QualityResult, Role

NOISE_NATS = 0.002
SIGNIFICANT = 0.05


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
