import json

import pytest

from core.errors import InputError
from core.picture_quiz.sets import UPLOAD_EXAMPLE, gallery_questions, uploaded_questions
from core.pictures.gallery import GalleryKind, gallery
from core.pictures.shelf import Shelf
from tests.unit.picture_quiz.quiz_samples import png


@pytest.fixture
def shelf(tmp_path):
    return Shelf(tmp_path)


def lines(*entries):
    return "\n".join(json.dumps(entry) for entry in entries).encode()


@pytest.mark.parametrize("kind", list(GalleryKind))
def test_the_gallerys_set_goes_through_all_pictures_before_it_asks_again(shelf, kind):
    shown = [picture for picture in gallery() if picture.kind is kind and picture.questions]
    asked = gallery_questions(shelf, kind)
    assert len(asked) == sum(len(picture.questions) for picture in shown)
    names = [question.picture.name for question in asked[: len(shown)]]
    assert names == [picture.path.name for picture in shown]
    assert all(question.answers for question in asked)
    for question in asked[:3]:
        assert shelf.read(question.picture)


def test_an_uploaded_set_takes_its_pictures_by_name(shelf):
    files = {
        "set.jsonl": lines(
            {"image": "a.png", "question": "Which colour?", "answers": ["red"]},
            {"image": "b.png", "question": "And this?"},
            {"image": "a.png", "question": "Again?", "answers": ["red"]},
        ),
        "a.png": png("red"),
        "b.png": png("blue"),
    }
    first, second, third = uploaded_questions(shelf, files)
    assert (first.question, first.answers) == ("Which colour?", ("red",))
    assert second.answers == ()
    assert first.picture == third.picture != second.picture
    assert shelf.read(second.picture)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a.png": png()}, "0 JSONL files"),
        ({"a.jsonl": b"{}", "b.jsonl": b"{}"}, "2 JSONL files"),
        ({"a.jsonl": b"\n{not json"}, "a.jsonl, line 2: "),
        ({"a.jsonl": lines({"image": "x.png"})}, "a.jsonl, line 1: question"),
        ({"a.jsonl": lines({"image": "x.png", "question": "?"})}, 'there is no picture "x.png"'),
        (
            {"a.jsonl": lines({"image": "x.png", "question": "?"}), "x.png": b"no picture"},
            "x.png is not a picture",
        ),
    ],
)
def test_what_is_wrong_with_an_uploaded_set_is_said(shelf, files, said):
    with pytest.raises(InputError) as refused:
        uploaded_questions(shelf, files)
    assert said in refused.value.message


def test_the_example_that_is_shown_is_one(shelf):
    files = {"set.jsonl": UPLOAD_EXAMPLE.encode(), "kitchen.jpg": png()}
    assert uploaded_questions(shelf, files)[0].answers == ("3",)
