import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.chat_api import stream
from core.chat_api.stream import Event, EventSplitter, EventTooLarge, StreamEvent, Usage, read_event

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
    monkeypatch.setattr(stream, "MAX_EVENT_BYTES", 1000)
    splitter = EventSplitter()
    for _ in range(10):
        splitter.feed(b"x" * 100)
    with pytest.raises(EventTooLarge):
        splitter.feed(b"x" * 100)
    assert len(splitter._tail) <= 1100


def test_an_event_of_many_lines_is_bounded(monkeypatch):
    monkeypatch.setattr(stream, "MAX_EVENT_BYTES", 1000)
    splitter = EventSplitter()
    for _ in range(10):
        splitter.feed(b"data: " + b"x" * 99 + b"\n")
    with pytest.raises(EventTooLarge):
        splitter.feed(b"data: x\n")


def test_stray_lines_are_bounded(monkeypatch):
    monkeypatch.setattr(stream, "_MAX_STRAY_BYTES", 100)
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


def read(data, name=b""):
    """The only thing that an event says."""
    document = data if isinstance(data, bytes) else json.dumps(data).encode()
    (event,) = read_event(Event(document, name))
    return event


def chunk(delta=None, **more):
    return {"model": "m", "choices": [{"index": 0, "delta": delta or {}, **more}]}


def test_role_only_and_empty_chunks_have_no_text():
    assert read(chunk({"role": "assistant"})).content == ""
    assert read(chunk({"role": "assistant", "content": None})).content == ""
    assert read(chunk({"content": ""})).has_choices


def test_text_of_both_kinds():
    assert read(chunk({"content": "你"})).content == "你"
    for name in ("reasoning_content", "reasoning", "thinking"):
        assert read(chunk({name: "hm"})).reasoning == "hm"


@pytest.mark.parametrize(
    ("content", "said", "thought"),
    [
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab", ""),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}], "", "hm"),
        ([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "a"}], "a", "hm"),
        (["a", "b"], "ab", ""),
        ({"type": "text", "text": "a"}, "a", ""),
        ([{"type": "image_url", "image_url": {"url": "data:,"}}], "", ""),
        ([], "", ""),
    ],
)
def test_content_as_a_list_of_parts(content, said, thought):
    event = read(chunk({"content": content}))
    assert (event.content, event.reasoning, event.strange) == (said, thought, "")


def test_other_places_of_text():
    assert read(chunk({"refusal": "I can't"})).content == "I can't"
    assert read({"choices": [{"text": "a"}]}).content == "a"
    assert read({"choices": [{"message": {"content": "all"}}]}).message == "all"
    assert read(chunk({"reasoning_details": [{"type": "reasoning.text", "text": "hm"}]})).reasoning == "hm"


def test_odd_fields_beside_the_text_lose_no_text():
    event = read(chunk({"content": "a", "reasoning": 5, "tool_calls": 7}, finish_reason=3, output_ids="x"))
    assert (event.content, event.finish_reason, event.tokens) == ("a", None, None)


def test_tokens_are_counted_by_their_ids():
    assert read(chunk({"content": "ab"}, output_ids=[5, 6])).tokens == 2
    assert read(chunk({"content": "ab"}, token_ids=[5, 6, 7])).tokens == 3
    assert read(chunk({"content": "ab"})).tokens is None


def test_llamacpp_tells_tokens_in_its_timings():
    event = read({**chunk({"content": "a"}), "timings": {"predicted_n": 4, "prompt_n": 3, "cache_n": 2}})
    assert event.tokens_so_far == 4
    assert event.usage == Usage(5, 4, 2)


def test_usage_with_and_without_choices():
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 1}}
    beside = {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": usage}
    assert read({"choices": [], "usage": usage}).usage == read(beside).usage == Usage(3, 4, 1)
    assert read({"choices": [], "usage": {"prompt_tokens": 3}}).usage == Usage(3, None, None)


@pytest.mark.parametrize("count", ["4", 4.0, -4, True, None, [4], 10**30])
def test_what_is_no_count_is_unknown(count):
    usage = {
        "prompt_tokens": count,
        "completion_tokens": count,
        "prompt_tokens_details": {"cached_tokens": count},
    }
    assert read({"choices": [], "usage": usage}).usage == Usage(None, None, None)


@pytest.mark.parametrize("usage", [[], "no", 3, {"prompt_tokens_details": [1]}])
def test_a_usage_of_another_shape_says_nothing(usage):
    assert not any(read({"choices": [], "usage": usage}).usage or ())


def test_usage_is_merged_by_field():
    first = Usage(7, 5, 3)
    assert first.merged(Usage()) == first
    assert first.merged(Usage(0, 0, 0)) == first
    assert first.merged(Usage(None, 6, None)) == Usage(7, 6, 3)
    assert Usage().merged(Usage(7, 0, None)) == Usage(7, 0, None)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"error": {"message": "no", "code": 500}}, "no"),
        ({"error": "no"}, "no"),
        (b'{"error": "can\'t say "this" unescaped"}', 'can\'t say "this" unescaped'),
        ({"message": "no", "object": "error"}, "no"),
        ({"detail": "no"}, "no"),
        ({"choices": [{"delta": {}}], "error": {"message": "no"}}, "no"),
        ({"text": "CUDA out of memory", "error_code": 50002}, "CUDA out of memory"),
        ({"code": 1302, "msg": "no"}, "no"),
        ({"success": False, "errors": [{"code": 5007, "message": "no"}]}, "no"),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "no"}}, "no"),
        ([{"error": {"code": 429, "message": "no"}}], "no"),
        ({"choices": [{"delta": {"content": ""}, "error": {"code": 502, "message": "no"}}]}, "no"),
        ({"choices": [], "base_resp": {"status_code": 1004, "status_msg": "no"}}, "no"),
    ],
)
def test_an_error_in_the_stream_in_any_shape(data, words):
    error = read(data).error
    assert error is not None
    assert error.words == words


def test_of_several_choices_the_first_is_read():
    choices = [{"index": index, "delta": {"content": str(index)}} for index in (2, 0, 1)]
    assert read({"choices": choices}).content == "0"


@pytest.mark.parametrize("data", [b"it broke", b'"it broke"', b'{"message": "it broke"}'])
def test_an_event_that_is_named_error(data):
    assert read(data, b"error").error.words == "it broke"


@pytest.mark.parametrize(
    "data",
    [
        {"choices": [], "error": None},
        {"type": "ping"},
        {"type": "ping", "message": "alive"},
        {"choices": [], "code": 0},
        {"choices": [], "code": 200, "error_code": 0},
        {"choices": [{"delta": {"content": ""}}], "error": ""},
        {"choices": [None]},
        {"choices": [{"delta": {"content": ""}, "error": None}]},
        {"choices": [], "base_resp": {"status_code": 0, "status_msg": "success"}},
        {"id": "x", "object": "chat.completion.chunk"},
    ],
)
def test_what_is_no_error(data):
    assert read(data).error is None
    assert read(data).strange == ""


@pytest.mark.parametrize(
    "data",
    [b"no JSON", [1], 3, {"choices": 3}, {"choices": ["a"]}, {"choices": [{"delta": 5}]},
     {"choices": [{"delta": {"content": 5}}]}, {"choices": [{"delta": {"content": [1]}}]}],
)  # fmt: skip
def test_what_is_no_chat_event_says_so(data):
    assert read(data).strange


@pytest.mark.parametrize("data", [b"", b"  ", b"\xef\xbb\xbf"])
def test_blank_events_say_nothing(data):
    assert list(read_event(Event(data))) == []


@pytest.mark.parametrize("data", [b"[DONE]", b"[DONE] ", b" [DONE]\r", b"\xef\xbb\xbf[DONE]"])
def test_the_end_with_blanks_around_it(data):
    assert read(data) == StreamEvent(is_done=True)


def test_events_without_blank_lines_between_them():
    lines = b"\n".join(json.dumps(chunk({"content": text})).encode() for text in "ab") + b"\n[DONE]"
    events = list(read_event(Event(lines)))
    assert [event.content for event in events] == ["a", "b", ""]
    assert events[-1].is_done


@pytest.mark.parametrize(
    ("value", "word"), [("stop", "stop"), ("", None), ("null", None), (3, None), ({"type": "stop"}, "stop")]
)
def test_finish_reasons_of_any_type(value, word):
    assert read(chunk(finish_reason=value)).finish_reason == word
