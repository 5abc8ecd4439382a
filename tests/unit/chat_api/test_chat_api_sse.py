from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from core.chat_api.sse import EventSplitter

STREAM = "\n".join(
    ["data: one", "", ": a comment", "event: ping", "data:two", "data: lines", "", "", "id: 3", "data", ""]
)


def split(*reads: bytes) -> list[bytes]:
    splitter = EventSplitter()
    events = [event for read in reads for event in splitter.feed(read)]
    return events + splitter.close()


def test_only_data_counts_and_its_lines_are_joined():
    assert split(STREAM.encode()) == [b"one", b"two\nlines", b""]


def test_events_come_as_soon_as_they_are_whole():
    splitter = EventSplitter()
    assert splitter.feed(b"data: a\n\nda") == [b"a"]
    assert splitter.feed(b"ta: b\n") == []
    assert splitter.feed(b"\n") == [b"b"]


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
