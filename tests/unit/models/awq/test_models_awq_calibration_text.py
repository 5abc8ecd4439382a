import json
from itertools import pairwise
from pathlib import Path

import pytest

from core.errors import InputError
from core.models.awq.calibration_text import MAX_BYTES, python_docs, read_text, sample_starts


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    file.write_text("Leistung = Drehmoment × Winkelgeschwindigkeit\n\n功率")

    text = read_text(file)

    assert text.name == "own.txt"
    assert text.documents == ("Leistung = Drehmoment × Winkelgeschwindigkeit\n\n功率",)


def test_jsonl_holds_texts_and_conversations(tmp_path: Path) -> None:
    file = tmp_path / "own.jsonl"
    messages = [{"role": "user", "content": "Hi"}]
    file.write_text(f"{json.dumps({'text': 'a'})}\n\n{json.dumps({'messages': messages})}\n")

    assert read_text(file).documents == ("a", messages)


def test_the_digest_follows_the_content(tmp_path: Path) -> None:
    digests = set()
    for content in ("a", "b", "a"):
        (tmp_path / "x.txt").write_text(content)
        digests.add(read_text(tmp_path / "x.txt").sha256)
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe", "not a UTF-8"),
        (b'{"text": "a"}\nno json', "line 2: not valid JSON"),
        (b'{"title": "a"}', "line 1: neither text nor messages"),
        (b'{"messages": ["a"]}', "line 1: neither"),
        (b"[1]", "line 1: neither"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "own.jsonl"
    file.write_bytes(content)
    with pytest.raises(InputError, match=said) as caught:
        read_text(file)
    assert caught.value.code == "calibration-unreadable"


def test_a_corpus_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "own.txt"
    with file.open("wb") as stream:
        stream.truncate(MAX_BYTES + 1)
    with pytest.raises(InputError, match="64 MiB"):
        read_text(file)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_text(tmp_path / "none.txt")


def test_pythons_own_documentation_is_enough_for_the_demo() -> None:
    text = python_docs()

    characters = sum(len(document) for document in text.documents)
    assert characters > 32 * 1024 * 6
    assert "pydoc_data" in text.name


@pytest.mark.parametrize(
    ("tokens", "samples", "seqlen"), [(100, 10, 10), (107, 10, 10), (1000, 3, 10), (7, 1, 7)]
)
def test_samples_are_spread_without_overlap(tokens: int, samples: int, seqlen: int) -> None:
    starts = sample_starts(tokens, samples, seqlen)

    assert len(starts) == samples
    assert all(later - earlier >= seqlen for earlier, later in pairwise(starts))
    assert starts[-1] + seqlen <= tokens
    assert starts[-1] + 2 * max(seqlen, tokens // samples) > tokens


@pytest.mark.parametrize(
    ("tokens", "said"),
    [(95, "9 samples of 10 tokens instead of 10"), (3, "0 samples of 10 tokens instead of 10")],
)
def test_too_little_text_says_how_much_it_gives(tokens: int, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        sample_starts(tokens, 10, 10)
    assert caught.value.code == "calibration-too-short"
