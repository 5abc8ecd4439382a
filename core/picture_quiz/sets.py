"""Where a quiz's questions come from: the gallery, or files that somebody hands in."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import zip_longest

from core.codec import decode
from core.domain.pictures import Picture
from core.errors import InputError
from core.picture_quiz.plan import QuizQuestion
from core.pictures.gallery import GalleryKind, GalleryPicture, gallery
from core.pictures.intake import take_in
from core.pictures.shelf import Shelf

UPLOAD_EXAMPLE = '{"image": "kitchen.jpg", "question": "How many cups are there?", "answers": ["3"]}'


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """One line of an uploaded set."""

    image: str
    question: str
    answers: tuple[str, ...] = ()


def gallery_questions(shelf: Shelf, kind: GalleryKind) -> tuple[QuizQuestion, ...]:
    """All questions about the gallery's pictures of a kind.

    The first of each picture, then the second of each: a start of the set goes through all pictures too.
    """
    pictures = [picture for picture in gallery() if picture.kind is kind]
    by_picture = [_questions(put(shelf, picture), picture) for picture in pictures]
    rounds = zip_longest(*by_picture)
    return tuple(question for asked in rounds for question in asked if question is not None)


def put(shelf: Shelf, picture: GalleryPicture) -> Picture:
    """The gallery's picture as one that can be sent."""
    return shelf.put(take_in(picture.path.read_bytes(), name=picture.path.name))


def uploaded_questions(shelf: Shelf, files: Mapping[str, bytes]) -> tuple[QuizQuestion, ...]:
    """The questions of a JSONL file about the pictures that came with it, all by their file names.

    A line is `{"image": …, "question": …, "answers": […]}`; the answers may be left out. Raises InputError
    for the first thing that is wrong.
    """
    lists = [name for name in files if name.lower().endswith(".jsonl")]
    if len(lists) != 1:
        raise InputError(
            f"{len(lists)} JSONL files were given",
            hint=f"Hand in one, and the pictures that it names. A line of it: {UPLOAD_EXAMPLE}",
        )
    text = files[lists[0]].decode("utf-8", "replace")
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]
    wanted = [(number, _read(lists[0], number, line)) for number, line in lines]
    taken: dict[str, Picture] = {}
    for number, line in wanted:
        if line.image not in files:
            raise InputError(
                f'{lists[0]}, line {number}: there is no picture "{line.image}"',
                hint="Hand in the picture together with the list, under that name.",
            )
        if line.image not in taken:
            taken[line.image] = shelf.put(take_in(files[line.image], name=line.image))
    return tuple(
        QuizQuestion(picture=taken[line.image], question=line.question, answers=line.answers)
        for _, line in wanted
    )


def _questions(picture: Picture, shown: GalleryPicture) -> list[QuizQuestion]:
    return [
        QuizQuestion(picture=picture, question=asked.question, answers=asked.answers)
        for asked in shown.questions
    ]


def _read(name: str, number: int, line: str) -> _Line:
    try:
        return decode(_Line, line)
    except InputError as error:
        raise InputError(
            f"{name}, line {number}: {error.message.removeprefix('_Line: ')}",
            hint=f"A line is such as {UPLOAD_EXAMPLE}",
        ) from error
