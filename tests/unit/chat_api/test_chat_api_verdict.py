"""Streams of every kind, mutated too: nothing raises, no text is lost, no failed request is a success."""

import json
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.chat_api import answer as answer_module
from core.chat_api.answer import Answer
from core.chat_api.client import failure_in
from core.chat_api.stream import EventSplitter, EventTooLarge
from core.domain.specs import Dialect, Endpoint
from core.domain.turns import FinishReason

REMOTE = Endpoint(url="http://host/v1", model="m", dialect=Dialect.GENERIC)


def play(*reads: bytes, dialect: Dialect = Dialect.GENERIC):
    """The answer that a stream becomes, and the code of what went wrong."""
    answer = Answer(dialect)
    splitter = EventSplitter()
    try:
        for read in reads:
            if not answer.over:
                answer.add(1, splitter.feed(read))
        answer.add(1, splitter.close())
    except EventTooLarge:
        answer.is_too_large = True
    answer.stray = bytes(splitter.stray)
    answer.end()
    error = failure_in(answer, REMOTE)
    answer.text.encode()
    answer.reasoning.encode()
    return answer, error and error.code


def event(document) -> bytes:
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    return b"data: " + data + b"\n\n"


def text(content="a", **more):
    return event({"choices": [{"index": 0, "delta": {"content": content}, **more}]})


ROLE = event(
    {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
)
STOP = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
USAGE = event({"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}})
DONE = b"data: [DONE]\n\n"

NO_ANSWERS = [
    (ROLE + DONE, "empty-answer"),
    (DONE, "empty-answer"),
    (ROLE + USAGE + DONE, "empty-answer"),
    (ROLE + event({"text": "**NETWORK ERROR** out of memory", "error_code": 50002}) + DONE,
     "engine-out-of-memory"),
    (ROLE + text() + event({"text": "worker is gone", "error_code": 50005}) + DONE, "endpoint-refused"),
    (ROLE + event({"detail": "busy, try again later"}) + DONE, "engine-busy"),
    (ROLE + event({"code": 1302, "msg": "no"}) + DONE, "endpoint-refused"),
    (ROLE + event(b"Internal Server Error") + DONE, "bad-stream"),
    (b"event: error\ndata: Internal Server Error\n\n" + DONE, "endpoint-refused"),
    (text() + event({"choices": [{"delta": {}, "finish_reason": "abort"}]}) + DONE, "engine-gave-up"),
    (text() + event({"choices": [{"delta": {"content": ""}, "error": {"message": "no"}}]}) + DONE,
     "endpoint-refused"),
    (text() + event({"base_resp": {"status_code": 1004, "status_msg": "no"}}) + DONE, "endpoint-refused"),
    (text(), "connection-lost"),
    (b"", "connection-lost"),
    (b": ping\n\n", "connection-lost"),
    (b"<!DOCTYPE html><html><title>Sign in</title></html>", "endpoint-web-page"),
    (b'{"error": {"message": "no model", "code": "model_not_found"}}', "model-not-found"),
    (b'{\n  "error": {\n    "message": "nothing"\n  }\n}', "endpoint-refused"),
    (b'{"choices": [{"message": {"content": "all at once"}, "finish_reason": "stop"}]}', "endpoint-refused"),
    (b"just words", "bad-stream"),
]  # fmt: skip


@pytest.mark.parametrize(("stream", "code"), NO_ANSWERS)
def test_what_is_no_answer_is_a_failure(stream, code):
    assert play(stream)[1] == code


ANSWERS = [
    (ROLE + text("a") + STOP + DONE, "a"),
    (ROLE + text("a") + STOP, "a"),
    (ROLE + text("a") + DONE, "a"),
    (text("a", finish_reason="stop"), "a"),
    (ROLE + STOP + DONE, ""),
    (b"data:\n\n" + text("a") + b"data: \n\n" + STOP + b"data: [DONE] \r\n\r\n", "a"),
    (b"\xef\xbb\xbf" + text("a") + STOP, "a"),
    (event(b'{"choices": [{"delta": {"content": "\xffa"}}]}') + STOP, "\ufffda"),
    (event(b'{"choices": [{"delta": {"content": "\\ud83d"}}]}')
     + event(b'{"choices": [{"delta": {"content": "\\ude00"}}]}') + STOP, "😀"),
    (event(b'{"choices": [{"delta": {"content": "\\ud83d"}}]}') + STOP, "\ufffd"),
    (event(b'{"choices": [{"delta": {"content": "a"}, "logprobs": {"p": -Infinity}}]}') + STOP, "a"),
    (text([{"type": "text", "text": "a"}]) + STOP, "a"),
    (event({"choices": [{"message": {"content": "whole"}, "finish_reason": "stop"}]}), "whole"),
    (text("a") + event({"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}), "a"),
    (text("a") + STOP + event(b"{broken") + DONE, "a"),
    (text("a") + STOP + event({"error": "too late"}), "a"),
    (text("a") + STOP + event({"usage": {"completion_tokens": "3"}}), "a"),
    (text("a").replace(b"\n\n", b"\n") + STOP.replace(b"\n\n", b"\n") + b"data: [DONE]", "a"),
    (text("a") + event({"choices": [{"delta": {"tool_calls": [{}]}, "finish_reason": "tool_calls"}]}), "a"),
]  # fmt: skip


@pytest.mark.parametrize(("stream", "said"), ANSWERS)
def test_oddities_lose_no_answer(stream, said):
    answer, code = play(stream)
    assert (answer.text, code) == (said, None)


def test_an_end_without_a_reason_is_noted():
    """llama-cpp-python ends a running answer so when another request comes."""
    assert any("may be incomplete" in note for note in play(text("a") + DONE)[0].notes)
    assert play(text("a") + STOP + DONE)[0].notes == []


def test_what_comes_after_the_end_is_a_note():
    assert "unexpected data after its end" in play(text() + STOP + event(b"{broken"))[0].notes[0]
    assert "too late" in play(text() + STOP + event({"error": "too late"}))[0].notes[0]


def test_text_around_an_event_that_can_not_be_understood_is_kept():
    answer, code = play(text("a") + event(b"{broken") + text("b") + STOP + DONE)
    assert (answer.text, code) == ("ab", "bad-stream")


def test_reasoning_or_a_tool_call_alone_is_an_answer():
    thought = event({"choices": [{"delta": {"reasoning": "hm"}}]})
    called = event({"choices": [{"delta": {"tool_calls": [{"function": {"name": "f"}}]}}]})
    assert play(thought + DONE)[1] is None
    answer, code = play(called + DONE)
    assert (answer.text, code, answer.calls_tool) == ("", None, True)


def test_later_usage_without_counts_takes_none_back():
    empty = event({"choices": [], "usage": {"prompt_tokens": None, "completion_tokens": 0}})
    details = event({"choices": [], "usage": {"prompt_tokens_details": {"cached_tokens": 2}}})
    answer, _ = play(text() + STOP + USAGE + empty + details + DONE)
    assert (answer.prompt_tokens, answer.output_tokens, answer.cached_tokens) == (7, 3, 2)


def test_no_tokens_beside_a_text_are_unknown():
    none = event({"choices": [], "usage": {"prompt_tokens": 0, "completion_tokens": 0}})
    answer, _ = play(text() + STOP + none + DONE)
    assert (answer.prompt_tokens, answer.output_tokens) == (None, None)


def test_tokens_so_far_become_tokens_of_each_chunk():
    events = [
        event({"choices": [{"delta": {"content": "a"}}], "timings": {"predicted_n": so_far}})
        for so_far in (1, 3, 4)
    ]
    answer, _ = play(*events, STOP, dialect=Dialect.LLAMACPP)
    answer.sent()
    assert answer.timing().chunk_tokens == (1, 2, 1)


def test_an_answer_is_bounded(monkeypatch):
    monkeypatch.setattr(answer_module, "MAX_TEXT_CHARS", 10)
    answer, code = play(*[text("abc")] * 50, STOP)
    assert code == "answer-too-large"
    assert len(answer.text) == 12
    monkeypatch.setattr(answer_module, "MAX_TEXT_CHARS", 10_000)
    monkeypatch.setattr(answer_module, "MAX_CHUNKS", 5)
    answer, code = play(*[text("a")] * 50, STOP)
    assert (len(answer.text), code) == (5, "answer-too-large")


def test_endless_nonsense_ends():
    answer, code = play(*[event(b"nonsense")] * 1000)
    assert answer.over
    assert code == "bad-stream"


pieces = st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=6), max_size=6)
cuts = st.lists(st.integers(0, 3000), max_size=8)
harmless = st.sampled_from(
    [
        b": keep-alive\n\n",
        b"data:\n\n",
        b"data: \n\n",
        b"\n\n",
        b"id: 7\nretry: 5\n\n",
        b"event: message\n\n",
        ROLE,
        event({"type": "ping"}),
        event(b"null"),
        event({"choices": []}),
        event({"choices": [None]}),
        event({"id": "x", "service_tier": None, "choices": [], "usage": None, "error": None, "code": 0}),
        event(b'{"choices": [{"delta": {}, "logprobs": {"x": [NaN, -Infinity]}}]}'),
        event({"choices": [{"delta": {"content": [], "reasoning": 3}, "finish_reason": ""}], "model": 5}),
        event({"choices": [], "usage": {"completion_tokens": "many", "prompt_tokens": [1]}}),
    ]
)
failures = st.sampled_from(
    [
        event({"error": {"message": "no"}}),
        event({"error": "no"}),
        event({"detail": [{"loc": ["body"], "msg": "no"}]}),
        event({"text": "no", "error_code": 50001}),
        event({"code": 500, "message": "no"}),
        event({"choices": [{"delta": {}, "finish_reason": "error"}]}),
        event({"choices": [], "error": {"code": 429}}),
        event([{"error": {"status": "UNAVAILABLE"}}]),
        b"event: error\ndata: no\n\n",
        event(b"Internal Server Error"),
        event({"choices": [{"delta": {"content": 5}}]}),
    ]
)


def in_reads(stream: bytes, cuts):
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


@given(said=pieces, extras=st.lists(st.tuples(st.integers(0, 7), harmless), max_size=6), cuts=cuts,
       newline=st.sampled_from([b"\n", b"\r\n", b"\r"]))  # fmt: skip
def test_no_harmless_oddity_loses_text_or_fails_an_answer(said, extras, cuts, newline):
    events = [*map(text, said), STOP, USAGE, DONE]
    for place, extra in extras:
        events.insert(min(place, len(events) - 1), extra)
    answer, code = play(*in_reads(b"".join(events).replace(b"\n", newline), cuts))
    assert code is None
    assert answer.text == "".join(said)
    assert answer.finish_reason is FinishReason.STOP
    assert (answer.prompt_tokens, answer.output_tokens) == (7, 3)


@given(said=pieces, place=st.integers(0, 6), failure=failures, cuts=cuts)
def test_a_failure_before_the_end_is_never_a_success_and_keeps_the_text(said, place, failure, cuts):
    events = [*map(text, said)]
    place = min(place, len(events))
    events.insert(place, failure)
    answer, code = play(*in_reads(b"".join([*events, DONE]), cuts))
    assert code is not None
    assert answer.text.startswith("".join(said[:place]))


@given(said=pieces, end=st.integers(0, 3000), cuts=cuts)
def test_a_stream_that_is_cut_off_before_its_end_is_never_a_success(said, end, cuts):
    whole = b"".join(map(text, said))
    answer, code = play(*in_reads(whole[:end], cuts))
    assert code is not None
    assert "".join(said).startswith(answer.text)


@given(
    said=pieces,
    changes=st.lists(st.tuples(st.integers(0, 3000), st.binary(max_size=4), st.integers(0, 6)), max_size=5),
    cuts=cuts,
)
def test_damaged_streams_raise_nothing_and_succeed_only_with_an_end(said, changes, cuts):
    stream = b"".join([ROLE, *map(text, said), STOP, USAGE, DONE])
    for place, inserted, removed in changes:
        stream = stream[:place] + inserted + stream[place + removed :]
    answer, code = play(*in_reads(stream, cuts))
    if code is None:
        assert answer.complete
        assert answer.finish_reason or answer.has_text or answer.calls_tool


@given(stream=st.binary(max_size=400), cuts=cuts)
@example(b"data: \xff\n\n", [])
def test_any_bytes_at_all_raise_nothing(stream, cuts):
    answer, code = play(*in_reads(stream, cuts))
    assert code is not None or answer.complete


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["choices", "delta", "content", "finish_reason", "usage", "error", "text", "type",
                         "completion_tokens", "tool_calls", "message", "code", "detail", "timings", "model",
                         "output_ids", "reasoning", "prompt_tokens_details", "predicted_n"]),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(st.lists(json_values, max_size=5))
def test_any_json_at_all_raises_nothing(documents):
    stream = b"".join(event(json.dumps(document).encode()) for document in documents)
    answer, code = play(stream)
    assert code is not None or (
        answer.complete and (answer.finish_reason or answer.has_text or answer.calls_tool)
    )


@given(delta=st.dictionaries(st.sampled_from(["content", "reasoning", "tool_calls", "refusal"]), json_values),
       usage=json_values, reason=json_values)  # fmt: skip
def test_any_fields_of_a_chunk_raise_nothing_and_lose_no_other_text(delta, usage, reason):
    odd = event({"choices": [{"delta": delta, "finish_reason": reason}], "usage": usage})
    answer, _ = play(text("before"), odd, text("after"), STOP, DONE)
    assert answer.text.startswith("before")
    if answer.error is None and not answer.over:
        assert answer.text.endswith("after")
