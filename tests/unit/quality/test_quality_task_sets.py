import json

import pytest

from core.errors import InputError
from core.images.store import ImageStore
from core.quality.task_sets import (
    CSV_EXAMPLE,
    JSONL_EXAMPLE,
    ShippedSet,
    read_set,
    scene_count,
    scenes,
    shipped,
)
from core.quality.tasks import Grade, Grader, grade

ALL = [item for name in ShippedSet for item in shipped(name)]


def test_the_shipped_sets_are_large_bilingual_and_use_every_grader():
    assert len(ALL) >= 120
    assert {item.language for item in ALL} == {"en", "zh"}
    assert all(sum(item.language == language for item in ALL) >= 60 for language in ("en", "zh"))
    assert {item.grader for item in ALL} == set(Grader)
    assert len({item.id for item in ALL}) == len({item.prompt for item in ALL}) == len(ALL)


@pytest.mark.parametrize("item", ALL, ids=lambda item: item.id)
def test_every_expected_answer_is_graded_right_and_another_wrong(item):
    for answer in item.answers:
        assert grade(item, answer) is Grade.RIGHT
    wrong = {
        Grader.CHOICE: next(letter for letter in "ABCD" if letter not in item.answers),
        Grader.NUMBER: "-12345",
        Grader.JSON_SCHEMA: '{"something": "else"}',
    }.get(item.grader, "def something_else(): pass")
    assert grade(item, wrong) is Grade.WRONG


def test_choices_are_spread_over_the_letters():
    right = [item.answers[0] for item in ALL if item.grader is Grader.CHOICE]
    assert all(right.count(letter) >= len(right) * 0.2 for letter in "ABCD")


def test_a_choice_is_asked_with_its_choices():
    text = next(item for item in ALL if item.grader is Grader.CHOICE).text
    assert "\nA. " in text
    assert "\nD. " in text


def test_the_examples_can_be_read():
    (item,) = read_set("own.jsonl", JSONL_EXAMPLE.encode())
    assert (item.grader, item.answers, item.id) == (Grader.NUMBER, ("42",), "line-1")
    first, second = read_set("own.csv", CSV_EXAMPLE.encode())
    assert first.grader is Grader.NUMBER
    assert second.answers == ("yes", "yes it is")


def test_a_csv_file_may_hold_choices_schemas_and_limits():
    content = (
        "id,prompt,choices,answers,json_schema,grader,max_tokens\n"
        "1,Which?,one|two,B,,,8\n"
        '2,JSON?,,,"{""type"": ""object""}",json-schema,\n'
    )
    choice, schema = read_set("own.csv", content.encode())
    assert (choice.grader, choice.choices, choice.max_tokens) == (Grader.CHOICE, ("one", "two"), 8)
    assert schema.json_schema == {"type": "object"}


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("own.txt", b"x", "not a CSV or JSONL"),
        ("own.jsonl", b"\xff", "UTF-8"),
        ("own.jsonl", b"", "0 items"),
        ("own.jsonl", b"[]", "line 1: not a JSON object"),
        ("own.jsonl", b"{", "line 1: not valid JSON"),
        ("own.jsonl", b'\n{"prompt": "?"}', "line 2"),
        ("own.jsonl", b'{"prompt": "?", "answers": ["a"], "grader": "magic"}', "grader"),
        ("own.csv", b"question,answers\na,b\n", "prompt"),
        ("own.csv", b"prompt,answers,max_tokens\na,b,many\n", "max_tokens"),
    ],
)
def test_a_file_that_is_no_set_is_refused_with_the_line(name, content, match):
    with pytest.raises(InputError, match=match):
        read_set(name, content)


def test_the_drawn_scenes_are_tasks_with_an_image(tmp_path):
    store = ImageStore(tmp_path)
    found = scenes(store)
    assert len(found) == scene_count() > 0
    assert all(item.image is not None and item.grader is Grader.CONTAINS for item in found)
    assert store.read(found[0].image)
    assert grade(found[0], f"It is {found[0].answers[0]}.") is Grade.RIGHT


def test_two_items_with_one_id_are_refused():
    line = json.dumps({"id": "1", "prompt": "?", "answers": ["a"]})
    with pytest.raises(InputError, match="same ID"):
        read_set("own.jsonl", f"{line}\n{line}".encode())
