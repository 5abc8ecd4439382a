"""The plan of a quality run, and the sets and files that it asks from."""

import json
from dataclasses import replace

import pytest

from core.errors import InputError
from core.images.store import ImageStore
from core.quality.plan import (
    CSV_EXAMPLE,
    JSONL_EXAMPLE,
    OWN_ANSWERS,
    PYTHON_DOCS,
    QualityPlan,
    ShippedSet,
    kv_variants,
    read_set,
    scene_count,
    scenes,
    shipped,
    text_file,
    windows,
)
from core.quality.tasks import Grade, Grader, grade
from tests.unit.quality import quality_samples as samples

ALL = [item for name in ShippedSet for item in shipped(name)]


def test_windows_are_spread_over_the_whole_text():
    found = windows(range(1000), 100, 300)
    assert [window[0] for window in found] == [0, 333, 666]
    assert all(len(window) == 100 for window in found)


def test_a_short_text_is_one_window_and_a_single_token_none():
    assert windows(range(50), 100, 300) == (tuple(range(50)),)
    assert windows(range(1), 100, 300) == ()
    assert windows((), 100, 300) == ()


def test_no_more_tokens_than_asked_for_are_scored():
    assert sum(map(len, windows(range(10_000), 512, 4096))) == 4096


def test_the_reference_comes_first_and_answers_twice():
    plan = samples.plan(reference="awq")
    assert [lane.name for lane in plan.ordered_lanes] == ["awq", "hf", "turbomind"]
    assert plan.answers == 3 * (3 + 10) + 3
    assert replace(plan, repeat_reference=False).answers == 3 * (3 + 10)
    assert plan.sampling(7).greedy


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"reference": "none"}, "isn't one of the lanes"),
        ({"lanes": ()}, "isn't one of the lanes"),
        ({"lanes": (samples.HF, samples.HF)}, "same name"),
        ({"prompts": (), "tasks": (), "texts": ()}, "Nothing"),
        ({"prompts": (), "texts": (OWN_ANSWERS,)}, "Own answers"),
        ({"prompts": ("?",) * 501}, "at most"),
        ({"window_tokens": 4}, "window"),
        ({"window_tokens": 512, "text_tokens": 100}, "window"),
    ],
)
def test_what_can_not_be_compared_is_refused(changes, match):
    with pytest.raises(InputError, match=match):
        samples.plan(**changes)


def test_a_plan_without_a_title_is_named_after_its_lanes():
    assert "turbomind" in samples.plan(title="").label
    assert samples.plan().label == "W4A16 against 16 bits"


def test_kv_variants_change_nothing_but_the_cache():
    eight, four = kv_variants(samples.TURBOMIND, (8, 4))
    assert (eight.name, eight.settings.quant_policy) == ("turbomind-kv8", 8)
    assert (
        replace(four, name="turbomind", settings=replace(four.settings, quant_policy=0)) == samples.TURBOMIND
    )


@pytest.mark.parametrize(("lane", "bits"), [(samples.HF, (8,)), (samples.TURBOMIND, (2,))])
def test_kv_bits_that_an_engine_has_not_are_refused(lane, bits):
    with pytest.raises(InputError):
        kv_variants(lane, bits)


def test_a_text_file_is_kept_in_the_plan():
    text = text_file("folder/notes.txt", "Grüße".encode())
    assert (text.name, text.content) == ("notes.txt", "Grüße")
    assert QualityPlan(lanes=(samples.HF,), reference="hf", texts=(text, PYTHON_DOCS)).texts[0] == text


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"  \n", b"x" * (4 * 2**20 + 1)])
def test_files_that_are_no_text_are_refused(content):
    with pytest.raises(InputError):
        text_file("notes.txt", content)


@pytest.mark.parametrize("task", ["/tmp/evil.yaml", "../x", "a.yaml", "--help", "*", "", "x" * 101])
def test_a_task_of_the_other_program_is_a_name_never_a_path(task):
    assert samples.plan(external_tasks=("gsm8k", "mmlu_pro-law"))
    with pytest.raises(InputError, match="is not a valid task name"):
        samples.plan(external_tasks=("gsm8k", task))


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
