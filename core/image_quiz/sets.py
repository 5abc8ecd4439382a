"""The sources of a quiz's questions: the gallery, or uploaded files."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest

from core.codec import decode
from core.domain.images import StoredImage
from core.errors import InputError
from core.i18n import N_
from core.image_quiz.plan import QuizQuestion
from core.images.gallery import GalleryImage, GalleryKind, gallery
from core.images.sanitise import sanitise
from core.images.store import ImageStore

UPLOAD_EXAMPLE = '{"image": "kitchen.jpg", "question": "How many cups are there?", "answers": ["3"]}'


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


def _questions(image: StoredImage, shown: GalleryImage) -> list[QuizQuestion]:
    return [
        QuizQuestion(image=image, question=asked.question, answers=asked.answers) for asked in shown.questions
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
