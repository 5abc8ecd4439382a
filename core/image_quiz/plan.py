"""The plan of a quiz: questions about images of the gallery or uploaded files, of the same lanes and with the
same settings.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from core.codec import decode
from core.domain.conversation import Sampling, StoredImage, messages_for
from core.domain.specs import LaneSpec
from core.domain.turns import Mode, RequestPlan, TurnPlan, new_id
from core.errors import InputError
from core.i18n import N_, Text
from core.images.gallery import GalleryImage, GalleryKind, gallery
from core.images.sanitise import sanitise
from core.images.store import ImageStore
from core.models.context import require_sendable

MOST_QUESTIONS = 500
UPLOAD_EXAMPLE = '{"image": "kitchen.jpg", "question": "How many cups are there?", "answers": ["3"]}'


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """One line of an uploaded set."""

    image: str
    question: str
    answers: tuple[str, ...] = ()


def gallery_questions(image_store: ImageStore, kind: GalleryKind) -> tuple[QuizQuestion, ...]:
    """All questions about the gallery's images of a kind.

    The first of each image, then the second of each: a start of the set goes through all images too.
    """
    images = [image for image in gallery() if image.kind is kind]
    by_image = [_questions(put(image_store, image), image) for image in images]
    rounds = zip_longest(*by_image)
    return tuple(question for asked in rounds for question in asked if question is not None)


def put(image_store: ImageStore, image: GalleryImage) -> StoredImage:
    """The gallery's image as one that can be sent."""
    return image_store.put(sanitise(image.path.read_bytes(), name=image.path.name))


def uploaded_questions(image_store: ImageStore, files: Mapping[str, bytes]) -> tuple[QuizQuestion, ...]:
    """The questions of a JSONL file about the images that came with it, all by their file names.

    A line is `{"image": …, "question": …, "answers": […]}`; the answers may be left out. Raises InputError
    for the first thing that is wrong.
    """
    lists = [name for name in files if name.lower().endswith(".jsonl")]
    if len(lists) != 1:
        raise InputError(
            N_("The upload has {n} JSONL files, but needs exactly one.", n=len(lists)),
            hint=N_(
                "Upload one JSONL file with the images that it names. An example line: {example}",
                example=UPLOAD_EXAMPLE,
            ),
        )
    text = files[lists[0]].decode("utf-8", "replace")
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    questions = [(number, _read(lists[0], number, line)) for number, line in lines]
    taken: dict[str, StoredImage] = {}
    for number, line in questions:
        if line.image not in files:
            raise InputError(
                N_(
                    '{file}, line {line}: image "{image}" is missing.',
                    file=lists[0],
                    line=number,
                    image=line.image,
                ),
                hint=N_("Upload the image together with the list, under that name."),
            )
        if line.image not in taken:
            taken[line.image] = image_store.put(sanitise(files[line.image], name=line.image))
    return tuple(
        QuizQuestion(image=taken[line.image], question=line.question, answers=line.answers)
        for _, line in questions
    )


def _questions(image: StoredImage, gallery_image: GalleryImage) -> list[QuizQuestion]:
    return [
        QuizQuestion(image=image, question=asked.question, answers=asked.answers)
        for asked in gallery_image.questions
    ]


def _read(name: str, number: int, line: str) -> _Line:
    try:
        return decode(_Line, line)
    except InputError as error:
        raise InputError(
            N_(
                "{file}, line {line}: {problem}",
                file=name,
                line=number,
                problem=error.message.removeprefix("_Line: "),
            ),
            hint=N_("An example line: {example}", example=UPLOAD_EXAMPLE),
        ) from error
