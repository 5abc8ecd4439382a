"""A model with random weights answers the calibration prompts on the CPU."""

import hashlib
import json
from pathlib import Path

import pytest

from core.errors import InputError
from core.models.awq.options import PROMPTS, read_text
from core.quality import plan as quality_plan
from tests.engines.awq_tiny_model import write_tiny_llama


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    return write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny-llama")


def answer(source: Path, tokens: int, **changes: object):
    from core.models.awq.worker import own_answers

    reports: list[tuple[str, float | None]] = []

    def report(stage: str, progress: float | None = None) -> None:
        reports.append((stage, progress))

    arguments = {
        "device": "cpu",
        "dtype": "float32",
        "prompts": ("Hello", "你好"),
        "answer_tokens": 12,
        **changes,
    }
    return own_answers(source, tokens=tokens, report=report, **arguments), reports


def without_template(source: Path, folder: Path) -> Path:
    from transformers import AutoTokenizer

    write_tiny_llama(folder)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.chat_template = None
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)
    return folder


def test_prompts_are_in_two_languages_and_never_measured_with() -> None:
    chinese = [prompt for prompt in PROMPTS if any("一" <= letter <= "鿿" for letter in prompt)]

    assert len(set(PROMPTS)) == len(PROMPTS) >= 40
    assert 12 <= len(chinese) <= len(PROMPTS) - 12
    assert not set(PROMPTS) & set(quality_plan.PROMPTS)


def test_the_model_answers_until_there_are_enough_tokens(tiny: Path) -> None:
    text, reports = answer(tiny, tokens=60)

    assert [doc[0] for doc in text.documents[:2]] == [
        {"role": "user", "content": "Hello"},
        {"role": "user", "content": "你好"},
    ]
    assert all(doc[1]["role"] == "assistant" and doc[1]["content"] for doc in text.documents)
    assert len(text.documents) > 2
    shares = [share for _, share in reports]
    assert shares == sorted(shares)
    assert "60 of 60 tokens" in reports[-1][0]


def test_further_answers_differ_and_the_seed_repeats_them(tiny: Path) -> None:
    first, _ = answer(tiny, tokens=60)
    again, _ = answer(tiny, tokens=60)

    assert first == again
    to_hello = [doc[1]["content"] for doc in first.documents if doc[0]["content"] == "Hello"]
    assert len(set(to_hello)) == len(to_hello) > 1


def test_the_kept_file_gives_the_same_text(tiny: Path, tmp_path: Path) -> None:
    from core.models.awq.worker import as_jsonl

    text, _ = answer(tiny, tokens=40)
    file = tmp_path / "calibration.jsonl"
    file.write_text(as_jsonl(text.documents), "utf-8")

    assert read_text(file).documents == text.documents
    assert hashlib.sha256(file.read_bytes()).hexdigest() == text.sha256
    assert "你好" in file.read_text("utf-8")


def test_a_model_without_chat_template_continues_plain_text(tiny: Path, tmp_path: Path) -> None:
    text, _ = answer(without_template(tiny, tmp_path / "base"), tokens=40)

    assert all(isinstance(doc, str) for doc in text.documents)
    assert text.documents[0].startswith("Hello\n")


def test_a_model_that_says_nothing_is_told_of(tiny: Path, tmp_path: Path) -> None:
    import shutil

    silent = shutil.copytree(tiny, tmp_path / "silent")
    # Every token ends an answer.
    (silent / "generation_config.json").write_text(json.dumps({"eos_token_id": list(range(512))}))

    with pytest.raises(InputError) as caught:
        answer(silent, tokens=40)
    assert caught.value.code == "own-answers-too-short"
