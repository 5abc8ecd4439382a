import json

import pytest

from core.errors import InputError
from core.image_quiz.sets import UPLOAD_EXAMPLE, gallery_questions, uploaded_questions
from core.images.gallery import GalleryKind, gallery
from core.images.store import ImageStore
from tests.unit.image_quiz.quiz_samples import png


@pytest.fixture
def image_store(tmp_path):
    return ImageStore(tmp_path)


def lines(*entries):
    return "\n".join(json.dumps(entry) for entry in entries).encode()


@pytest.mark.parametrize("kind", list(GalleryKind))
def test_the_gallerys_set_goes_through_all_images_before_it_asks_again(image_store, kind):
    shown = [image for image in gallery() if image.kind is kind and image.questions]
    asked = gallery_questions(image_store, kind)
    assert len(asked) == sum(len(image.questions) for image in shown)
    names = [question.image.name for question in asked[: len(shown)]]
    assert names == [image.path.name for image in shown]
    assert all(question.answers for question in asked)
    for question in asked[:3]:
        assert image_store.read(question.image)


def test_an_uploaded_set_takes_its_images_by_name(image_store):
    files = {
        "set.jsonl": lines(
            {"image": "a.png", "question": "Which colour?", "answers": ["red"]},
            {"image": "b.png", "question": "And this?"},
            {"image": "a.png", "question": "Again?", "answers": ["red"]},
        ),
        "a.png": png("red"),
        "b.png": png("blue"),
    }
    first, second, third = uploaded_questions(image_store, files)
    assert (first.question, first.answers) == ("Which colour?", ("red",))
    assert second.answers == ()
    assert first.image == third.image != second.image
    assert image_store.read(second.image)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a.png": png()}, "0 JSONL files"),
        ({"a.jsonl": b"{}", "b.jsonl": b"{}"}, "2 JSONL files"),
        ({"a.jsonl": b"\n{not json"}, "a.jsonl, line 2: "),
        ({"a.jsonl": lines({"image": "x.png"})}, "a.jsonl, line 1: question"),
        ({"a.jsonl": lines({"image": "x.png", "question": "?"})}, 'image "x.png" is missing'),
        (
            {"a.jsonl": lines({"image": "x.png", "question": "?"}), "x.png": b"no image"},
            "x.png is not an image",
        ),
    ],
)
def test_what_is_wrong_with_an_uploaded_set_is_said(image_store, files, said):
    with pytest.raises(InputError) as refused:
        uploaded_questions(image_store, files)
    assert said in refused.value.message


def test_the_example_that_is_shown_is_one(image_store):
    files = {"set.jsonl": UPLOAD_EXAMPLE.encode(), "kitchen.jpg": png()}
    assert uploaded_questions(image_store, files)[0].answers == ("3",)
