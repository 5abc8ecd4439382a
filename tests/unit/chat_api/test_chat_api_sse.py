from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.chat_api import sse
from core.chat_api.sse import Event, EventSplitter, EventTooLarge

STREAM = "\n".join(
    ["data: one", "", ": a comment", "event: ping", "data:two", "data: lines", "", "", "id: 3", "data", ""]
)


def split(*reads: bytes) -> list[bytes]:
    splitter = EventSplitter()
    events = [event for read in reads for event in splitter.feed(read)]
    return [event.data for event in (*events, *splitter.close())]


def test_only_data_counts_and_its_lines_are_joined():
    assert split(STREAM.encode()) == [b"one", b"two\nlines", b""]


def test_events_come_as_soon_as_they_are_whole():
    splitter = EventSplitter()
    assert splitter.feed(b"data: a\n\nda") == [Event(b"a")]
    assert splitter.feed(b"ta: b\n") == []
    assert splitter.feed(b"\n") == [Event(b"b")]


def test_an_event_without_its_last_newline_is_not_lost():
    assert split(b"data: a\n\ndata: [DONE]") == [b"a", b"[DONE]"]


def test_only_one_space_after_the_colon_belongs_to_the_format():
    assert split(b"data:  x\n\n") == [b" x"]


def test_crlf_cut_between_its_halves():
    assert split(b"data: a\r", b"\n\r", b"\ndata: b\r\n\r\n") == [b"a", b"b"]


def test_a_lone_carriage_return_ends_a_line_too():
    assert split(b"data: a\r\rdata: b\r\r") == [b"a", b"b"]


def test_nothing_comes_of_nothing():
    assert split(b"", b"", b"\n\n\n") == []


@given(
    payloads=st.lists(
        st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), min_size=1), max_size=6
    ),
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    cuts=st.lists(st.integers(0, 400), max_size=12),
)
def test_any_split_of_the_bytes_gives_the_same_events(payloads, newline, cuts):
    stream = "".join(
        f": {index}{newline}data: {payload}{newline * 2}" for index, payload in enumerate(payloads)
    )
    data = stream.encode()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    reads = [data[start:end] for start, end in pairwise(edges)]
    assert [event.decode() for event in split(*reads)] == payloads


def test_a_byte_order_mark_belongs_to_no_field():
    assert split(b"\xef\xbb\xbfdata: a\n\n") == [b"a"]
    assert split(*(bytes([byte]) for byte in b"\xef\xbb\xbfdata: a\n\n")) == [b"a"]


def test_the_name_of_an_event_goes_with_it_alone():
    splitter = EventSplitter()
    assert splitter.feed(b"event: error\ndata: a\n\ndata: b\n\n") == [Event(b"a", b"error"), Event(b"b")]


def test_what_is_no_event_stream_is_kept_to_be_told():
    splitter = EventSplitter()
    splitter.feed(b"<html>\n<body>hello</body>\n")
    splitter.close()
    assert b"<html>\n<body>hello</body>" in splitter.stray


def test_a_line_without_end_is_bounded_and_copied_once(monkeypatch):
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 1000)
    splitter = EventSplitter()
    for _ in range(10):
        splitter.feed(b"x" * 100)
    with pytest.raises(EventTooLarge):
        splitter.feed(b"x" * 100)
    assert len(splitter._tail) <= 1100


def test_an_event_of_many_lines_is_bounded(monkeypatch):
    monkeypatch.setattr(sse, "MAX_EVENT_BYTES", 1000)
    splitter = EventSplitter()
    for _ in range(10):
        splitter.feed(b"data: " + b"x" * 99 + b"\n")
    with pytest.raises(EventTooLarge):
        splitter.feed(b"data: x\n")


def test_stray_lines_are_bounded(monkeypatch):
    monkeypatch.setattr(sse, "_MAX_STRAY_BYTES", 100)
    splitter = EventSplitter()
    for _ in range(50):
        splitter.feed(b"nonsense nonsense\n")
    assert len(splitter.stray) <= 100


def test_a_long_line_is_not_looked_at_again_with_every_read(monkeypatch):
    """Each read must cost what it brings, not what came before: the tail grows in place."""
    splitter = EventSplitter()
    splitter.feed(b"x")
    tail = splitter._tail
    for _ in range(100):
        splitter.feed(b"x" * 1000)
        assert splitter._tail is tail
