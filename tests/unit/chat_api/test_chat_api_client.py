"""The client against the scripted server: every way of streaming and of failing."""

import asyncio
import socket
import time

import pytest

from core.chat_api.answer import Answer
from core.chat_api.client import Timeouts, open_session, send
from core.chat_api.servers import with_model
from core.domain.conversation import Sampling
from core.domain.specs import Dialect
from core.domain.turns import FinishReason
from core.errors import EngineBusy, EngineCrashed, EngineError, EngineOutOfMemory, EngineTimeout, InputError
from tests.unit.meter.meter_samples import GREEDY, MESSAGES, endpoint, model

PATIENT = Timeouts()
HASTY = Timeouts(connect_s=0.5, first_token_s=0.3, stall_s=0.3, trailer_s=0.3)


def ask(url, dialect=Dialect.GENERIC, sampling=GREEDY, timeouts=PATIENT, key=None, **scenario):
    """The answer to one request, and the error that ended it; `device` and `tokenizer` are the endpoint's."""
    there = {name: scenario.pop(name, None) for name in ("device", "tokenizer")}
    answer = Answer(dialect)

    async def main():
        async with open_session() as session:
            await send(
                session,
                endpoint(url, model(dialect=dialect, **scenario), dialect, api_key=key, **there),
                MESSAGES,
                sampling,
                answer,
                timeouts,
            )

    try:
        asyncio.run(main())
    except (EngineError, InputError) as error:
        return answer, error
    return answer, None


@pytest.mark.parametrize("dialect", Dialect)
def test_each_dialect_streams_text_counts_and_reason(server, dialect):
    answer, error = ask(server.url, dialect, text="one two three", first_chunk_s=0.05, interval_s=0.05)
    timing = answer.timing()
    assert error is None
    assert answer.text == "one two three"
    assert (answer.finish_reason, answer.prompt_tokens, answer.cached_tokens) == (FinishReason.STOP, 7, 3)
    assert timing.output_tokens == 3
    assert timing.content_chars == (4, 4, 5)
    assert (
        timing.sent_ns < timing.first_event_ns <= timing.chunk_ns[0] <= timing.chunk_ns[2] <= timing.ended_ns
    )
    assert timing.ttft_s >= 0.05
    assert timing.is_burst or timing.tpot_s == pytest.approx((timing.chunk_ns[2] - timing.chunk_ns[0]) / 2e9)


def test_a_role_only_first_chunk_is_an_event_and_no_token(server):
    answer, _ = ask(server.url, Dialect.TRANSFORMERS, chunks=2, first_chunk_s=0.2)
    timing = answer.timing()
    assert (timing.first_event_ns - timing.sent_ns) < 0.15e9
    assert timing.ttft_s >= 0.2


def test_tokens_of_empty_chunks_count_for_the_next_one_with_text(server):
    answer, _ = ask(server.url, Dialect.LMDEPLOY, chunks=3, tokens_per_chunk=2, empty_chunks=1)
    timing = answer.timing()
    assert timing.chunk_tokens == (3, 3, 3)
    assert timing.output_tokens == 9


def test_without_token_ids_the_tokens_of_a_chunk_are_unknown(server):
    answer, _ = ask(server.url, Dialect.GENERIC, chunks=3, tokens_per_chunk=2)
    assert answer.timing().chunk_tokens is None
    assert answer.output_tokens == 6


def test_the_closing_eos_that_transformers_counts_is_taken_off_but_not_from_a_full_answer(server):
    stopped, _ = ask(server.url, Dialect.TRANSFORMERS, chunks=3)
    full, _ = ask(server.url, Dialect.TRANSFORMERS, chunks=3, sampling=Sampling(max_tokens=3))
    assert (stopped.output_tokens, stopped.finish_reason) == (3, FinishReason.STOP)
    assert (full.output_tokens, full.finish_reason) == (3, FinishReason.LENGTH)


@pytest.mark.parametrize("usage", ["separate", "with-choices"])
def test_usage_with_or_without_choices(server, usage):
    answer, _ = ask(server.url, chunks=4, usage=usage)
    assert answer.output_tokens == 4


def test_counts_are_unknown_without_usage(server):
    answer, error = ask(server.url, chunks=4, usage="none")
    assert error is None
    assert (answer.output_tokens, answer.prompt_tokens) == (None, None)


@pytest.mark.parametrize(
    "quirks",
    [
        {"newline": "\r\n"},
        {"newline": "\r\n", "split_bytes": 7},
        {"split_bytes": 1},
        {"comments": True},
        {"final_newline": False},
        {"done": False},
        {"finish_reason": None},
    ],
)
def test_quirks_of_streams_change_nothing(server, quirks):
    answer, error = ask(server.url, text="你好 世界 🚀", **quirks)
    assert error is None
    assert answer.text == "你好 世界 🚀"


def test_reasoning_text_is_kept_apart(server):
    for name in ("reasoning_content", "reasoning"):
        answer, _ = ask(
            server.url, text="hm so yes", reasoning_chunks=2, reasoning_field=name, interval_s=0.02
        )
        timing = answer.timing()
        assert (answer.reasoning, answer.text) == ("hm so ", "yes")
        assert timing.reasoning_ttft_s < timing.ttft_s
        assert timing.reasoning_chars == (3, 3, 0)


def test_an_empty_answer_is_an_answer(server):
    answer, error = ask(server.url, chunks=0)
    assert error is None
    assert (answer.text, answer.finish_reason) == ("", FinishReason.STOP)
    assert answer.timing().ttft_s is None


@pytest.mark.parametrize("dialect", Dialect)
def test_an_error_inside_the_stream_keeps_what_came_before(server, dialect):
    answer, error = ask(server.url, dialect, text="one two three", error="CUDA out of memory", error_after=2)
    assert type(error) is EngineOutOfMemory
    assert answer.text == "one two "
    assert answer.timing().ended_ns is not None


@pytest.mark.parametrize("dialect", Dialect)
def test_a_refusal_in_each_servers_shape(server, dialect):
    _, error = ask(server.url, dialect, status=400, error="the context length is 256")
    assert (type(error), error.code) == (InputError, "prompt-too-long")


def test_a_busy_server(server):
    _, error = ask(server.url, status=503, error="queue is full")
    assert type(error) is EngineBusy


def test_an_unknown_model(server):
    answer = Answer(Dialect.GENERIC)

    async def main():
        async with open_session() as session:
            await send(session, endpoint(server.url, "nobody"), MESSAGES, GREEDY, answer, HASTY)

    with pytest.raises(EngineError) as caught:
        asyncio.run(main())
    assert caught.value.code == "model-not-found"


def test_the_key_is_sent_and_never_shown(server):
    answer, error = ask(server.url, key="sk-right", api_key="sk-right")
    assert (answer.finish_reason, error) == (FinishReason.STOP, None)
    _, error = ask(server.url, key="sk-wrong", api_key="sk-right")
    assert error.code == "endpoint-unauthorised"
    assert "sk-wrong" not in f"{error.message} {error.hint}"


def test_a_server_that_does_not_stream(server):
    _, error = ask(server.url, chunks=2, in_one_piece=True)
    assert error.code == "endpoint-refused"
    assert "streaming" in error.message


@pytest.mark.parametrize("broken", [{"cut_after": 2}, {"end_after": 2}])
def test_a_stream_that_breaks_off_keeps_its_text_and_only_a_local_engine_crashed(server, broken):
    answer, error = ask(server.url, text="one two three", interval_s=0.01, **broken)
    assert (type(error), error.code) == (EngineError, "connection-lost")
    assert answer.text == "one two "
    answer, error = ask(server.url, device="cpu", text="one two three", interval_s=0.01, **broken)
    assert type(error) is EngineCrashed
    assert answer.text == "one two "


def test_tokens_of_an_answer_cut_short_are_counted_by_their_ids(server):
    answer, _ = ask(server.url, Dialect.LMDEPLOY, chunks=9, tokens_per_chunk=2, cut_after=3, interval_s=0.01)
    assert answer.output_tokens == 6


def test_nobody_listens():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        answer, error = ask(f"http://127.0.0.1:{free.getsockname()[1]}/v1")
    assert (type(error), error.code) == (EngineError, "endpoint-unreachable")
    assert answer.timing() is None


def test_an_address_that_is_none():
    _, error = ask("http://:0:0/v1")
    assert error.code == "endpoint-refused"


def test_no_connection_in_time():
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        with socket.create_connection(address), socket.socket() as second:
            second.setblocking(False)
            second.connect_ex(address)  # the queue of one is full now: further ones get no answer
            answer, error = ask(f"http://127.0.0.1:{address[1]}/v1", timeouts=HASTY)
    assert (type(error), error.code) == (EngineTimeout, "connect-timeout")
    assert answer.timing() is None


def test_no_first_token_in_time(server):
    _, hung = ask(server.url, timeouts=HASTY, hang=True)
    _, only_a_role = ask(server.url, timeouts=HASTY, first_chunk_s=30)
    assert type(hung) is EngineTimeout
    assert hung.code == only_a_role.code == "first-token-timeout"


def test_a_stall(server):
    answer, error = ask(server.url, timeouts=HASTY, text="one two three", stall_after=2)
    assert (type(error), error.code) == (EngineTimeout, "stall-timeout")
    assert answer.text == "one two "


def test_a_slow_stream_is_no_stall(server):
    answer, error = ask(server.url, timeouts=HASTY, chunks=6, interval_s=0.15)
    assert error is None
    assert answer.output_tokens == 6


def test_cancelling_closes_the_connection_at_once(server):
    answer = Answer(Dialect.GENERIC)

    async def main(**scenario):
        async with open_session() as session:
            task = asyncio.create_task(
                send(session, endpoint(server.url, model(**scenario)), MESSAGES, GREEDY, answer, PATIENT)
            )
            await asyncio.sleep(0.3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    for scenario in ({"chunks": 100, "interval_s": 0.05}, {"hang": True}):
        asyncio.run(main(**scenario))
        deadline = time.monotonic() + 2
        while not server.seen[-1].broken_off and time.monotonic() < deadline:
            time.sleep(0.01)
        assert server.seen[-1].broken_off
    assert answer.text.startswith("word0 word1 ")


def test_without_a_model_the_first_one_listed_is_asked(server):
    async def main(url, name):
        async with open_session() as session:
            return await with_model(session, endpoint(url, name), HASTY)

    assert asyncio.run(main(server.url, "mine")).model == "mine"
    assert asyncio.run(main(server.url, "")).model == next(iter(server.script.scenarios))
    with pytest.raises(EngineError):
        asyncio.run(main(server.url.removesuffix("/v1"), ""))


@pytest.mark.parametrize(("reuse", "pause_s", "connections"), [(True, 0, 1), (True, 0.3, 2), (False, 0, 2)])
def test_connections_are_reused_only_when_asked_and_while_fresh(monkeypatch, reuse, pause_s, connections):
    monkeypatch.setattr("core.chat_api.session._REUSE_WITHIN_S", 0.1)
    events = (
        b'data: {"choices": [{"delta": {"content": "hello"}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
    )
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    answered = head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(events), events)
    made = []

    async def serve(reader, writer):
        made.append(writer)
        while request := await reader.readuntil(b"\r\n\r\n"):
            length = next(
                line for line in request.split(b"\r\n") if line.lower().startswith(b"content-length")
            )
            await reader.readexactly(int(length.split(b":")[1]))
            writer.write(answered)

    async def main():
        async with (
            await asyncio.start_server(serve, "127.0.0.1", 0) as listening,
            open_session(reuse=reuse) as session,
        ):
            port = listening.sockets[0].getsockname()[1]
            for _ in range(2):
                answer = Answer(Dialect.GENERIC)
                there = endpoint(f"http://127.0.0.1:{port}/v1", "m", Dialect.GENERIC)
                await send(session, there, MESSAGES, GREEDY, answer, PATIENT)
                assert answer.text == "hello"
                await asyncio.sleep(pause_s)

    asyncio.run(main())
    assert len(made) == connections


@pytest.fixture
def tokenizer_folder(tmp_path):
    """A tokenizer whose words are tokens."""
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[UNK]": 0, "one": 1, "two": 2, "three": 3}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return str(tmp_path)


def test_a_lanes_tokenizer_counts_where_the_server_does_not(server, tokenizer_folder):
    answer, error = ask(server.url, tokenizer=tokenizer_folder, text="one two three", usage="none")
    assert error is None
    assert answer.output_tokens == 3
    assert any("lane's tokenizer" in note for note in answer.notes)
    counted, _ = ask(server.url, tokenizer=tokenizer_folder, chunks=5)
    assert counted.output_tokens == 5
    assert counted.notes == []


ONE_COUNTED_TOO_MANY = "one two  three"
"""The second blank is a chunk and a token of its own to the server, and none to the tokenizer."""


def test_a_lanes_tokenizer_tells_whether_usage_counts_the_closing_token(server, tokenizer_folder):
    answer, error = ask(server.url, tokenizer=tokenizer_folder, text=ONE_COUNTED_TOO_MANY)
    assert error is None
    assert answer.output_tokens == 3
    assert any("end-of-sequence token" in note for note in answer.notes)


def test_a_closing_token_is_looked_for_only_where_it_may_be(server, tokenizer_folder):
    cut, _ = ask(server.url, tokenizer=tokenizer_folder, text=ONE_COUNTED_TOO_MANY, finish_reason="length")
    assert cut.output_tokens == 4
    two_more, _ = ask(server.url, tokenizer=tokenizer_folder, text="one two   three")
    assert two_more.output_tokens == 5
    known, _ = ask(server.url, Dialect.LMDEPLOY, tokenizer=tokenizer_folder, text=ONE_COUNTED_TOO_MANY)
    assert known.output_tokens == 4
    nameless, _ = ask(server.url, text=ONE_COUNTED_TOO_MANY)
    assert nameless.output_tokens == 4


def test_a_tokenizer_that_is_missing_fails_no_answer(server, tmp_path):
    answer, error = ask(server.url, tokenizer=str(tmp_path / "none"), text="one two", usage="none")
    assert error is None
    assert answer.output_tokens is None
    assert any("Tokens aren't counted" in note for note in answer.notes)
    counted, _ = ask(server.url, tokenizer=str(tmp_path / "none"), chunks=5)
    assert counted.output_tokens == 5
    assert counted.notes == []
