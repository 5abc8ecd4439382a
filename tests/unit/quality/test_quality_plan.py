from dataclasses import replace

import pytest

from core.errors import InputError
from core.quality.plan import OWN_ANSWERS, PYTHON_DOCS, QualityPlan, kv_variants, text_file, windows
from tests.unit.quality import quality_samples as samples


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
