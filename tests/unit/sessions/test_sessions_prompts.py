"""Prompt sets: shipped, uploaded and pasted."""

from collections import Counter

import pytest

from core.domain.conversation import StoredImage
from core.errors import InputError
from core.images.gallery import gallery
from core.sessions.prompts import (
    SHIPPED,
    no_image,
    pasted_prompts,
    prompt_set,
    shipped_set,
    uploaded_prompts,
)

IMAGE = StoredImage(
    sha256="0" * 64, media_type="image/png", width_px=1, height_px=1, size_bytes=1, name="cup.png"
)
CATEGORIES = {
    "knowledge", "reasoning", "writing", "code", "translation", "instruction following", "safety",
}  # fmt: skip


def image_of(name: str) -> StoredImage:
    if name not in ("cup.png", *(picture.name for picture in gallery())):
        raise InputError(f"no {name}")
    return IMAGE


@pytest.mark.parametrize(("key", "language"), [("english", "en"), ("chinese", "zh")])
def test_the_shipped_sets_hold_forty_prompts_over_seven_categories(key, language):
    prompts = shipped_set(key, no_image).prompts
    assert len(prompts) >= 40
    assert {prompt.category for prompt in prompts} == CATEGORIES
    assert min(Counter(prompt.category for prompt in prompts).values()) >= 5
    assert {prompt.language for prompt in prompts} == {language}
    assert len({prompt.text for prompt in prompts}) == len(prompts)


def test_the_vision_set_names_images_of_the_gallery():
    prompts = shipped_set("vision", image_of).prompts
    assert len(prompts) >= 12
    assert all(prompt.images for prompt in prompts)


def test_all_shipped_sets_have_a_file():
    assert set(SHIPPED) == {"english", "chinese", "vision"}


def test_the_version_tells_whether_prompts_are_the_same():
    one, two = pasted_prompts("A\nB"), pasted_prompts("A\nC")
    assert prompt_set("x", one).version == prompt_set("y", one).version
    assert prompt_set("x", one).version != prompt_set("x", two).version


def test_pasted_lines():
    prompts = pasted_prompts("  First \n\n第二个\n")
    assert [(prompt.text, prompt.language) for prompt in prompts] == [("First", ""), ("第二个", "zh")]


def test_csv_with_a_byte_order_mark_and_line_breaks_in_cells():
    data = '\ufeffprompt,category,language\n"Two\nlines",code,en\n,,\nThird,,\n'.encode()
    prompts = uploaded_prompts({"set.csv": data}, no_image)
    assert [(prompt.text, prompt.category, prompt.language) for prompt in prompts] == [
        ("Two\nlines", "code", "en"),
        ("Third", "", ""),
    ]


def test_jsonl_with_an_image():
    data = b'{"prompt": "What is it?", "image": "cup.png", "category": "objects"}\n'
    prompts = uploaded_prompts({"set.jsonl": data, "cup.png": b"..."}, image_of)
    assert (prompts[0].images, prompts[0].category) == ((IMAGE,), "objects")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "0 prompt files"),
        ({"a.csv": b"", "b.txt": b""}, "2 prompt files"),
        ({"a.csv": b"question\nWhy?\n"}, 'no column "prompt"'),
        ({"a.txt": "für".encode("latin-1")}, "is not a UTF-8 text file"),
        ({"a.jsonl": b'{"prompt": "x"}\n{"text": "y"}'}, "a.jsonl, line 2"),
        ({"a.csv": b"prompt,image\nx,plate.png\n"}, "a.csv, line 2"),
    ],
)
def test_what_can_t_be_read_is_said(files, message):
    with pytest.raises(InputError, match=message):
        uploaded_prompts(files, image_of)


@pytest.mark.parametrize(
    ("name", "prompts"), [("x", ""), ("x", "a\n" * 501), ("x", "a" * 20_001), (" ", "a")]
)
def test_sets_that_can_t_be_used(name, prompts):
    with pytest.raises(InputError):
        prompt_set(name, pasted_prompts(prompts))
