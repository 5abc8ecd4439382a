"""A lane's worst items: tasks that it loses, and answers that differ earliest from the reference's."""

from collections.abc import Sequence
from dataclasses import dataclass

from core.domain.runs import Prompted, QualityAnswer, QualityRecord
from core.quality.agreement import Piece, diff
from core.quality.results import Outcome, QualityResult, outcome
from core.quality.tasks.task import TaskItem


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
