"""The figures of a quality run, computed from its stored facts.

Of each lane: tasks, agreement with the reference, likelihood of texts, and speed. Answers to a prompt that
the lane tokenised otherwise than the reference are flagged, and part of no comparison.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from core.bench.statistics import Interval, median_of_known, wilson
from core.codec import decode
from core.domain.runs import (
    Prompted,
    QualityAnswer,
    QualityLane,
    QualityRecord,
    QualityRun,
    ScoringMethod,
    TextScore,
)
from core.domain.specs import LaneSpec, Weights
from core.domain.turns import ErrorInfo
from core.quality.paired import Agreement, McNemar, PairedDifference, agreement, mcnemar, mean_difference
from core.quality.plan import QualityPlan
from core.quality.tasks import Grade, TaskItem, grade


class Outcome(StrEnum):
    """The outcome of a task."""

    RIGHT = "right"
    WRONG = "wrong"
    UNANSWERED = "unanswered"
    CUT_OFF = "cut-off"
    """Not right, and ended by the maximum number of tokens."""
    FAILED = "failed"
    """The request failed or was stopped; part of no share."""


class Role(StrEnum):
    REFERENCE = "reference"
    CONTROL = "control"
    """The reference's weights in 16 bits or more on another engine: its differences are numerical noise."""
    COMPARED = "compared"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScore:
    """A lane's results in the tasks."""

    outcomes: Mapping[Outcome, int]
    differing_prompts: int
    """Tasks whose prompt had another number of tokens than the reference's; not in `difference`."""
    difference: McNemar | None
    """Against the reference; None for the reference itself."""

    @property
    def asked(self) -> int:
        """Without failed requests."""
        return sum(self.outcomes.values()) - self.outcomes[Outcome.FAILED]

    @property
    def accuracy_ratio(self) -> float | None:
        return self.outcomes[Outcome.RIGHT] / self.asked if self.asked else None

    @property
    def interval(self) -> Interval | None:
        return wilson(self.outcomes[Outcome.RIGHT], self.asked)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreementScore:
    """The agreement of a lane's answers to the prompts with the reference's."""

    agreements: Mapping[int, Agreement]
    """By the prompt's place in the plan."""
    differing_prompts: int

    @property
    def n(self) -> int:
        return len(self.agreements)

    @property
    def identical(self) -> int:
        return sum(each.identical for each in self.agreements.values())

    @property
    def identical_interval(self) -> Interval | None:
        return wilson(self.identical, self.n)

    @property
    def token_ratio(self) -> float | None:
        """Equal positions of all answers together."""
        longest = sum(each.longest for each in self.agreements.values())
        return sum(each.equal_positions for each in self.agreements.values()) / longest if longest else None

    @property
    def prefix_tokens(self) -> float | None:
        """Equal tokens from the start, in the mean."""
        return sum(each.prefix_tokens for each in self.agreements.values()) / self.n if self.n else None

    @property
    def parts_at_p50(self) -> float | None:
        """The median place of the first difference, among the answers that differ."""
        places = [each.parts_at for each in self.agreements.values() if each.parts_at is not None]
        return float(np.median(places)) if places else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextComparison:
    """The likelihood of one text by a lane, against the reference's."""

    text: str
    method: ScoringMethod | None
    tokens: int
    nats_per_token: float | None
    difference: PairedDifference | None
    """In nats per token; None for the reference, and where either is unknown."""
    top1_ratio: float | None
    """Positions where lane and reference hold the same token for the most likely."""
    kl_nats_per_token: float | None
    methods_gap_nats: float | None
    """The server's own value minus that of a forward pass, where there are both."""
    error: ErrorInfo | None

    @property
    def perplexity(self) -> float | None:
        return math.exp(self.nats_per_token) if self.nats_per_token is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneQuality:
    """All that is said about one lane."""

    facts: QualityLane
    role: Role
    tasks: TaskScore | None
    agreement: AgreementScore | None
    """None for the reference."""
    texts: tuple[TextComparison, ...]
    timed: int
    ttft_p50_s: float | None
    decode_tok_per_s_p50: float | None
    energy_j_per_token: float | None
    same_template: bool | None
    """Whether a prompt becomes the same token ids as the reference's; None where that is not known."""
    same_tokenizer: bool | None

    @property
    def name(self) -> str:
        return self.facts.lane.name

    @property
    def memory_bytes(self) -> int | None:
        """GPU memory of the engine, or host memory of one without a GPU; with what it reserves."""
        return self.facts.peak_gpu_bytes or self.facts.peak_resident_bytes

    def text(self, name: str) -> TextComparison | None:
        return next((text for text in self.texts if text.text == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityResult:
    """All that is said about a run; lanes in the plan's order."""

    run: QualityRun
    plan: QualityPlan
    lanes: tuple[LaneQuality, ...]
    noise: AgreementScore | None
    """The reference against its own second answers."""

    @property
    def reference(self) -> LaneQuality:
        return next(lane for lane in self.lanes if lane.role is Role.REFERENCE)


def plan_of(run: QualityRun) -> QualityPlan:
    """The plan that a run was made by; raises InputError if this version can't read it."""
    return decode(QualityPlan, run.plan)


def results(record: QualityRecord) -> QualityResult:
    """Everything about a run, also about one that still goes on."""
    plan = plan_of(record.run)
    answers = _Answers(record.answers)
    facts = {lane.lane.name: lane for lane in record.run.lanes}
    reference = facts[plan.reference]
    again = answers.of(plan.reference, Prompted.PROMPT, repeat=1)
    return QualityResult(
        run=record.run,
        plan=plan,
        lanes=tuple(_lane(lane, reference, answers, plan) for lane in record.run.lanes),
        noise=_agreement(answers.of(plan.reference, Prompted.PROMPT), again) if again else None,
    )


def outcome(answer: QualityAnswer, task: TaskItem) -> Outcome:
    if not answer.answered:
        return Outcome.FAILED
    graded = grade(task, answer.text)
    if graded is not Grade.RIGHT and answer.cut_off:
        return Outcome.CUT_OFF
    return Outcome(graded.value)


def role_of(lane: LaneSpec, reference: LaneSpec) -> Role:
    if lane.name == reference.name:
        return Role.REFERENCE
    plain = lane.weights is Weights.CHECKPOINT and not lane.settings.quant_policy
    return Role.CONTROL if plain and lane.model and lane.model == reference.model else Role.COMPARED


class _Answers:
    """The answers by lane, part and item."""

    def __init__(self, answers: Sequence[QualityAnswer]) -> None:
        self._by_list: dict[tuple[str, Prompted, int], dict[int, QualityAnswer]] = {}
        for answer in answers:
            key = (answer.lane, answer.part, answer.repeat)
            self._by_list.setdefault(key, {})[answer.item] = answer

    def of(self, lane: str, part: Prompted, *, repeat: int = 0) -> Mapping[int, QualityAnswer]:
        return self._by_list.get((lane, part, repeat), {})

    def all_of(self, lane: str) -> list[QualityAnswer]:
        return [
            answer
            for (name, _, _), answers in self._by_list.items()
            if name == lane
            for answer in answers.values()
        ]


def _lane(facts: QualityLane, reference: QualityLane, answers: _Answers, plan: QualityPlan) -> LaneQuality:
    name = facts.lane.name
    is_reference = name == reference.lane.name
    asked = answers.all_of(name)
    timings = [answer.timing for answer in asked if answer.answered and answer.timing is not None]
    tokens = [timing.output_tokens for timing in timings]
    total = sum(count for count in tokens if count is not None)
    known = total and len(timings) == len(asked) and None not in tokens
    prompts = answers.of(name, Prompted.PROMPT)
    return LaneQuality(
        facts=facts,
        role=role_of(facts.lane, reference.lane),
        tasks=_tasks(
            answers.of(name, Prompted.TASK),
            None if is_reference else answers.of(reference.lane.name, Prompted.TASK),
            plan,
        ),
        agreement=None
        if is_reference or not prompts
        else _agreement(answers.of(reference.lane.name, Prompted.PROMPT), prompts),
        texts=tuple(_text(text.name, facts, reference) for text in plan.texts),
        timed=len(timings),
        ttft_p50_s=median_of_known(timing.ttft_s for timing in timings),
        decode_tok_per_s_p50=median_of_known(timing.decode_tok_per_s for timing in timings),
        energy_j_per_token=facts.energy_j / total if known and facts.energy_j is not None else None,
        same_template=_same(facts.tokenizer.template_sha256, reference.tokenizer.template_sha256),
        same_tokenizer=_same(facts.tokenizer.probe_sha256, reference.tokenizer.probe_sha256),
    )


def _tasks(
    lane: Mapping[int, QualityAnswer], reference: Mapping[int, QualityAnswer] | None, plan: QualityPlan
) -> TaskScore | None:
    if not lane:
        return None
    outcomes = {place: outcome(answer, plan.tasks[place]) for place, answer in lane.items()}
    counted = {kind: list(outcomes.values()).count(kind) for kind in Outcome}
    if reference is None:
        return TaskScore(outcomes=counted, differing_prompts=0, difference=None)
    both, differing = _comparable(reference, lane)
    pairs = []
    for place in both:
        theirs = outcome(reference[place], plan.tasks[place])
        if Outcome.FAILED not in (theirs, outcomes[place]):
            pairs.append((theirs is Outcome.RIGHT, outcomes[place] is Outcome.RIGHT))
    return TaskScore(outcomes=counted, differing_prompts=differing, difference=mcnemar(pairs))


def _agreement(reference: Mapping[int, QualityAnswer], lane: Mapping[int, QualityAnswer]) -> AgreementScore:
    both, differing = _comparable(reference, lane)
    agreements = {}
    for place in both:
        one, other = reference[place], lane[place]
        if not (one.answered and other.answered):
            continue
        if one.token_ids is not None and other.token_ids is not None:
            agreements[place] = agreement(one.token_ids, other.token_ids)
    return AgreementScore(agreements=agreements, differing_prompts=differing)


def _comparable(
    reference: Mapping[int, QualityAnswer], lane: Mapping[int, QualityAnswer]
) -> tuple[list[int], int]:
    """The places that both were asked with the same prompt, and how many prompts differed."""
    both = [place for place in lane if place in reference]
    same = [
        place
        for place in both
        if None in (reference[place].prompt_tokens, lane[place].prompt_tokens)
        or reference[place].prompt_tokens == lane[place].prompt_tokens
    ]
    return same, len(both) - len(same)


def _text(name: str, facts: QualityLane, reference: QualityLane) -> TextComparison:
    score, base = _best(facts.scores, name), _best(reference.scores, name)
    if score is None or not score.sequences:
        error = score.error if score else None
        return TextComparison(
            text=name,
            method=None,
            tokens=0,
            nats_per_token=None,
            difference=None,
            top1_ratio=None,
            kl_nats_per_token=None,
            methods_gap_nats=None,
            error=error or facts.error,
        )
    is_reference = facts.lane.name == reference.lane.name
    comparable = base is not None and base.sha256 == score.sha256 and not is_reference
    return TextComparison(
        text=name,
        method=score.method,
        tokens=score.tokens,
        nats_per_token=score.nats_per_token,
        difference=_difference(score, base) if comparable and base else None,
        top1_ratio=None if is_reference else _per_token(score, [s.top1_matches for s in score.sequences]),
        kl_nats_per_token=None if is_reference else _per_token(score, [s.kl_nats for s in score.sequences]),
        methods_gap_nats=_gap(facts.scores, name),
        error=None,
    )


def _best(scores: Sequence[TextScore], name: str) -> TextScore | None:
    """The best score of a text: a forward pass, else a server's, else an error."""
    order = [ScoringMethod.FORWARD_PASS, ScoringMethod.GET_PPL, ScoringMethod.PROMPT_LOGPROBS, None]
    candidates = [score for score in scores if score.text == name]
    return min(candidates, key=lambda score: order.index(score.method)) if candidates else None


def _difference(score: TextScore, base: TextScore) -> PairedDifference | None:
    if len(score.sequences) != len(base.sequences):
        return None
    return mean_difference(
        [sequence.nll_nats for sequence in score.sequences],
        [sequence.nll_nats for sequence in base.sequences],
        [sequence.tokens for sequence in score.sequences],
    )


def _per_token(score: TextScore, values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / score.tokens if score.tokens and len(known) == len(values) else None


def _gap(scores: Sequence[TextScore], name: str) -> float | None:
    by_method = {score.method: score.nats_per_token for score in scores if score.text == name}
    forward = by_method.get(ScoringMethod.FORWARD_PASS)
    served = by_method.get(ScoringMethod.GET_PPL)
    return None if forward is None or served is None else served - forward


def _same(one: str | None, other: str | None) -> bool | None:
    return None if one is None or other is None else one == other
