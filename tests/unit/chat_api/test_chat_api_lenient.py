import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.chat_api.lenient import UNREADABLE, TextJoiner, count, json_document, one_line, well_formed


@pytest.mark.parametrize(
    ("data", "document"),
    [
        (b'\xef\xbb\xbf {"a": 1}\r\n', {"a": 1}),
        (b'{"a": "\xff"}', {"a": "\udcff"}),
        (b'{"a": "\\ud83d"}', {"a": "\ud83d"}),
        (b'{"a": "line\nend"}', {"a": "line\nend"}),
        (b"no JSON", UNREADABLE),
        (b"", UNREADABLE),
        (b"[" * 100_000, UNREADABLE),
    ],
)
def test_json_that_is_not_quite_json(data, document):
    assert json_document(data) == document


def test_numbers_that_json_does_not_have():
    assert json_document(b'{"a": -Infinity}') == {"a": float("-inf")}


@pytest.mark.parametrize("value", ["5", 5.0, -1, True, None, [], {}, 2**31, 10**30, float("nan")])
def test_only_a_whole_number_is_a_count(value):
    assert count(value) is None


def test_counts():
    assert [count(value) for value in (0, 7, 2**31 - 1)] == [0, 7, 2**31 - 1]


def joined(*pieces):
    joiner = TextJoiner()
    return "".join([*(joiner.feed(piece) for piece in pieces), joiner.close()])


def test_halves_of_a_pair_are_put_together():
    assert joined("a\ud83d", "\ude00b") == "a😀b"
    assert joined("\ud83d", "x") == "\ufffdx"
    assert joined("\ude00") == "\ufffd"
    assert joined("\ud83d") == "\ufffd"


def test_halves_that_look_like_raw_bytes_are_a_pair_all_the_same():
    assert joined("\ud83d", "\udca9") == "💩"


def escaped(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def test_bytes_of_one_character_over_several_pieces():
    first, second, third = (escaped(bytes([byte])) for byte in "你".encode())
    assert joined("a" + first, second, third + "b") == "a你b"
    assert joined(first, "b") == "\ufffdb"


@given(text=st.text(max_size=40), cuts=st.lists(st.integers(0, 120), max_size=6))
def test_utf8_cut_anywhere_is_whole_again(text, cuts):
    data = text.encode()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    assert joined(*(escaped(data[start:end]) for start, end in pairwise(edges))) == text


@given(text=st.text(max_size=40), cuts=st.lists(st.integers(0, 80), max_size=6))
def test_utf16_cut_anywhere_is_whole_again(text, cuts):
    units = json.dumps(text)[1:-1]
    halves = [json.loads(f'"{part}"') for part in _characters(units)]
    edges = [0, *sorted(min(cut, len(halves)) for cut in cuts), len(halves)]
    assert joined(*("".join(halves[start:end]) for start, end in pairwise(edges))) == text


def _characters(units: str) -> list[str]:
    """JSON's escapes and plain characters one by one, halves of pairs apart."""
    parts, place = [], 0
    while place < len(units):
        size = 6 if units.startswith("\\u", place) else 2 if units[place] == "\\" else 1
        parts.append(units[place : place + size])
        place += size
    return parts


@given(st.text(st.characters(), max_size=60))
def test_well_formed_text_can_be_encoded(text):
    well_formed(text).encode()


@given(st.text(st.characters(), max_size=60))
def test_one_line_is_one_line_that_no_terminal_obeys(text):
    line = one_line(text)
    assert "\n" not in line
    assert "\x1b" not in line
    line.encode()
