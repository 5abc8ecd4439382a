"""Accuracy and latency of each lane, derived from a quiz's records."""

from dataclasses import dataclass
from statistics import median

from core.bench.statistics import Interval, wilson
from core.image_quiz.grading import Verdict
from core.image_quiz.results import QuizRun, verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneScore:
    """What one lane did in a quiz."""

    lane: str
    right: int
    wrong: int
    no_answer: int
    """Failed or stopped requests; they count neither as right nor as wrong."""
    not_graded: int
    ttft_p50_s: float | None
    e2e_p50_s: float | None
    timed: int
    """Answers behind the two medians."""

    @property
    def graded(self) -> int:
        return self.right + self.wrong

    @property
    def accuracy_ratio(self) -> float | None:
        return self.right / self.graded if self.graded else None

    @property
    def interval(self) -> Interval | None:
        return wilson(self.right, self.graded)


def scores(run: QuizRun) -> tuple[LaneScore, ...]:
    """One score a lane, in the plan's order."""
    return tuple(_score(run, place) for place in range(len(run.plan.lanes)))


def _score(run: QuizRun, place: int) -> LaneScore:
    records = [answer.records[place] for answer in run.answers]
    verdicts = [
        verdict(record, run.plan.questions[answer.question])
        for record, answer in zip(records, run.answers, strict=True)
    ]
    timed = [
        record
        for record, how in zip(records, verdicts, strict=True)
        if how is not Verdict.NO_ANSWER and record.ttft_s is not None
    ]
    return LaneScore(
        lane=run.plan.lanes[place].name,
        right=verdicts.count(Verdict.RIGHT),
        wrong=verdicts.count(Verdict.WRONG),
        no_answer=verdicts.count(Verdict.NO_ANSWER),
        not_graded=verdicts.count(Verdict.NOT_GRADED),
        ttft_p50_s=_median([record.ttft_s for record in timed]),
        e2e_p50_s=_median([record.e2e_s for record in timed]),
        timed=len(timed),
    )


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
