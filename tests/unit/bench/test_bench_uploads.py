import json

import pytest

from core.bench.plan import PromptKind
from core.bench.presets import parse_numbers, parse_whole_numbers, prompt_kind
from core.bench.workload import keep_prompt_file, listed_prompts
from core.errors import InputError


def kept(settings):
    return sorted(path.name for path in (settings.home / "prompts").rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [
        ("mine.txt", b"one\ntwo\n", PromptKind.TEXT),
        ("mine.JSONL", b'"one"\n{"prompt": "two"}\n', PromptKind.JSONL),
        (
            "share.json",
            json.dumps([{"conversations": [{"from": "human", "value": f"{n}"}]} for n in "12"]).encode(),
            PromptKind.SHAREGPT,
        ),
    ],
)
def test_a_file_is_kept_for_the_run(settings, name, data, kind):
    workload = keep_prompt_file(settings, name, data)
    assert workload.prompts is kind
    assert listed_prompts(workload).label == f"2 prompts from {name}, in order"
    assert keep_prompt_file(settings, name, data) == workload
    assert len(kept(settings)) == 1


def test_a_file_without_prompts_is_refused_by_its_own_name(settings):
    with pytest.raises(InputError, match=r"Can't use the prompts in broken\.jsonl: line 1") as caught:
        keep_prompt_file(settings, "broken.jsonl", b"{}\n")
    assert caught.value.code == "prompt-file"
    with pytest.raises(InputError, match="contains no prompts"):
        keep_prompt_file(settings, "empty.txt", b"\n")
    assert kept(settings) == []


@pytest.mark.parametrize("name", ["../../etc/passwd.txt", "/abs/passwd.txt", "..", "a b\x00.txt", "х" * 300])
def test_a_name_never_leads_out_of_the_folder(settings, name):
    keep_prompt_file(settings, name, b"one\n")
    (path,) = (settings.home / "prompts").glob("*/*")
    assert path.resolve().parent.parent == (settings.home / "prompts").resolve()


def test_numbers_as_people_write_them():
    assert parse_numbers("The rate", "0.5, 1,2") == (0.5, 1, 2)
    assert parse_whole_numbers("Concurrency", "1, 4, 16") == (1, 4, 16)
    for text in ("", "1,,2", "many"):
        with pytest.raises(InputError, match="must be a list of numbers"):
            parse_whole_numbers("Concurrency", text)
    with pytest.raises(InputError, match=r"must be a list of whole numbers, not “1\.5”"):
        parse_whole_numbers("Concurrency", "1.5")


@pytest.mark.parametrize("text", ["inf", "nan", "1,nan"])
def test_what_is_not_finite_is_no_number(text):
    with pytest.raises(InputError):
        parse_numbers("The rate", text)


def test_the_ending_says_how_a_file_is_read():
    assert prompt_kind("a.jsonl") is PromptKind.JSONL
    assert prompt_kind("a.JSON") is PromptKind.SHAREGPT
    assert prompt_kind("a.txt") is PromptKind.TEXT
