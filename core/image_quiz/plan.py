"""What a quiz asks: questions about images, of the same lanes and with the same settings."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from core.domain.conversation import messages_for
from core.domain.images import StoredImage
from core.domain.sampling import Sampling
from core.domain.specs import LaneSpec
from core.domain.turns import Mode, RequestPlan, TurnPlan, new_id
from core.errors import InputError
from core.i18n import N_, Text
from core.models.vision.context import require_sendable

MOST_QUESTIONS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class QuizQuestion:
    """One question about one image."""

    image: StoredImage
    question: str
    answers: tuple[str, ...] = ()
    """Any of these is right; without any the answers are collected, not graded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuizPlan:
    """Questions and lanes. Raises InputError for what can't be asked."""

    title: Text
    lanes: tuple[LaneSpec, ...]
    questions: tuple[QuizQuestion, ...]
    sampling: Sampling
    mode: Mode = Mode.ONE_AFTER_ANOTHER
    """Of the lanes for each question; the questions always follow one another."""
    system_prompt: str = ""
    id: str = field(default_factory=new_id)

    def __post_init__(self) -> None:
        if not self.lanes:
            raise InputError(N_("No lane is selected."), hint=N_("Select lanes in the sidebar."))
        if not 1 <= len(self.questions) <= MOST_QUESTIONS:
            raise InputError(
                N_("There are no questions.")
                if not self.questions
                else N_("Too many questions ({n}).", n=len(self.questions)),
                hint=N_(
                    "Choose images and enter a question, or choose a question set. A quiz can have at "
                    "most {most} "
                    "questions.",
                    most=MOST_QUESTIONS,
                ),
            )
        if any(not question.question.strip() for question in self.questions):
            raise InputError(N_("A question is empty."), hint=N_("Enter a question."))

    def check_sendable(self) -> None:
        """Raise InputError for a lane that can't be sent one of the images, by its model's files of today.

        So it comes before a start, and is no part of a plan: what was asked then has to stay readable.
        """
        for lane in self.lanes:
            for question in self.questions:
                require_sendable(lane, messages_for(question.question, images=(question.image,)))

    def turn(self, place: int) -> TurnPlan:
        """The question at `place` as a turn of its own: no lane sees another question or its answer."""
        asked = self.questions[place]
        images = (asked.image,)
        messages = messages_for(asked.question, system=self.system_prompt, images=images)
        return TurnPlan(
            conversation_id=self.id,
            prompt=asked.question,
            system_prompt=self.system_prompt,
            mode=self.mode,
            sampling=self.sampling,
            images=images,
            requests=tuple(RequestPlan(lane=lane, messages=messages) for lane in self.lanes),
        )


def one_question(
    question: str, images: Iterable[StoredImage], answers: Sequence[str] = ()
) -> tuple[QuizQuestion, ...]:
    """The same question about each of several images."""
    expected = tuple(answer.strip() for answer in answers if answer.strip())
    return tuple(QuizQuestion(image=image, question=question, answers=expected) for image in images)
