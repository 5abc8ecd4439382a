"""The gallery that ships, and mistakes in its file."""

from pathlib import Path

import pytest

from core.errors import ConfigError
from core.images.gallery import GALLERY_DIR, GalleryKind, gallery
from core.images.sanitise import sanitise
from tests.unit.images.image_files import encoded, four_corners, opened

GOOD = """
[images.corners]
title = "Four corners"
file = "corners.png"
kind = "scene"
licence = "Apache-2.0"
source = "drawn by a test"
questions = [
  { question = "Which colour is above?", answers = ["red", "green"] },
]
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "corners.png").write_bytes(encoded(four_corners(), "PNG"))
    (tmp_path / "gallery.toml").write_text(GOOD)
    return tmp_path


def test_a_gallery_is_read(folder):
    (only,) = gallery(folder)
    assert (only.name, only.title, only.kind) == ("corners", "Four corners", GalleryKind.SCENE)
    assert only.path == folder / "corners.png"
    assert only.note == ""
    assert only.questions[0].answers == ("red", "green")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[images.corners]", "[images.corners", "not valid TOML"),
        ("[images.corners]", "[image.corners]", "image] is not a key of the gallery"),
        ("images.corners", "images.'Four corners'", "is not a valid name"),
        ('title = "Four corners"', "", "[images.corners] title is missing"),
        ('title = "Four corners"', 'title = ""', "[images.corners] title is empty"),
        ('title = "Four corners"', "title = 4", "line 3: [images.corners] title has the wrong type"),
        ('"scene"', '"painting"', "[images.corners] kind is unknown"),
        ("licence =", "license =", "[images.corners] license is not a key of an image"),
        ("corners.png", "absent.png", "[images.corners] file names no file next to"),
        ("corners.png", "../corners.png", "[images.corners] file names no file next to"),
        ('["red", "green"]', "[]", "questions.answers is empty"),
        ('["red", "green"]', "[1]", "questions.answers has the wrong type"),
        ('["red", "green"]', '"red"', "questions.answers has the wrong type"),
        ("answers =", "answer =", "questions.answer is not a key of a question"),
        ("{ question", '{ note = "x", question', "questions.note is not a key of a question"),
        ('question = "Which colour is above?", ', "", "questions.question is missing"),
    ],
)
def test_mistakes_are_named_with_their_place(folder, old, new, message):
    assert old in GOOD
    (folder / "gallery.toml").write_text(GOOD.replace(old, new))
    with pytest.raises(ConfigError) as caught:
        gallery(folder)
    assert message in caught.value.message
    assert caught.value.message.startswith("gallery.toml")
    assert caught.value.hint


@pytest.mark.parametrize("content", ["", "images = 3"])
def test_a_gallery_without_images_is_a_mistake(folder, content):
    (folder / "gallery.toml").write_text(content)
    with pytest.raises(ConfigError, match=r"\[images\]"):
        gallery(folder)


def test_a_missing_gallery_is_a_config_error(tmp_path):
    with pytest.raises(ConfigError, match=r"gallery\.toml can't be read"):
        gallery(tmp_path)


def shipped(kind: GalleryKind) -> list:
    return [image for image in gallery() if image.kind is kind]


def test_every_shipped_image_is_taken_and_carries_no_metadata():
    for image in gallery():
        data = image.path.read_bytes()
        taken = sanitise(data, name=image.path.name).image
        assert max(taken.width_px, taken.height_px) <= 640
        assert len(data) < 120_000
        assert not {"exif", "icc_profile", "comment", "xmp"} & set(opened(data).info)


def test_shipped_images_have_questions_and_photographs_say_for_whom_they_are():
    photos = shipped(GalleryKind.PHOTO)
    assert len(photos) >= 4
    assert all(image.questions for image in gallery())
    assert all("models of your own" in image.note for image in photos)


def test_the_folder_holds_what_the_gallery_lists_and_little_of_it():
    listed = {image.path for image in gallery()} | {GALLERY_DIR / "gallery.toml"}
    assert {path for path in Path(GALLERY_DIR).rglob("*") if path.is_file()} == listed
    assert sum(path.stat().st_size for path in listed) < 1_500_000
