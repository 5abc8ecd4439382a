"""The client against servers and proxies with ways of their own: connections, encodings, refused fields."""

import asyncio
import gzip
import json
import ssl
import zlib
from dataclasses import replace

import aiohttp
import pytest

from core.chat_api import client as client_module
from core.chat_api import servers
from core.chat_api.answer import Answer
from core.chat_api.client import Timeouts, open_session, send
from core.chat_api.failures import connection_failure
from core.chat_api.servers import list_models, with_model
from core.chat_api.session import is_loopback, proxy_for
from core.domain.conversation import Sampling
from core.domain.specs import Dialect, Endpoint, Patience, RequestOptions
from core.errors import EngineBusy, LMDynoError
from tests.raw_http import EVENTS, chunked, on_model_time, response, serving
from tests.unit.meter.meter_samples import GREEDY, MESSAGES

CLOSES = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def at(server, **more):
    return Endpoint(url=server.url, model="m", dialect=Dialect.GENERIC, **more)


def run(
    answer,
    *,
    requests=1,
    reuse=False,
    sampling=GREEDY,
    timeouts=Timeouts(),  # noqa: B008
    pause_s=0.0,
    run_loop=asyncio.run,
    **endpoint,
):
    """Send requests one after another; the server, the answers and the codes of what went wrong."""

    async def main():
        answers, codes = [], []
        async with serving(answer) as server, open_session(reuse=reuse) as session:
            for _ in range(requests):
                answers.append(Answer(Dialect.GENERIC))
                try:
                    await send(session, at(server, **endpoint), MESSAGES, sampling, answers[-1], timeouts)
                    codes.append(None)
                except LMDynoError as error:
                    codes.append(error.code)
                await asyncio.sleep(pause_s)
        return server, answers, codes

    return run_loop(main())


def test_a_server_that_drops_kept_connections_loses_no_request():
    """It answers one request a connection and drops the next one without a word, as if it had been idle."""
    server, answers, codes = run(
        lambda _body, number: response() if number == 0 else None, requests=6, reuse=True
    )
    assert codes == [None] * 6
    assert {answer.text for answer in answers} == {"hello"}
    assert server.connections == 6
    assert len(server.requests) > 6  # some were sent over a connection that was gone


def test_the_clock_of_a_request_that_is_sent_again_starts_anew():
    dropped_at = []

    def answer(_body, number):
        if number == 0:
            return response()
        dropped_at.append(asyncio.get_running_loop().time())
        return None

    _, answers, _ = run(answer, requests=2, reuse=True)
    assert dropped_at
    assert answers[1].timing().sent_ns >= dropped_at[0] * 1e9


def test_a_new_connection_that_is_dropped_is_a_lost_one():
    server, _, codes = run(lambda _body, _number: None)
    assert codes == ["connection-lost"]
    assert len(server.requests) == 1


def test_a_kept_connection_that_breaks_after_the_first_byte_is_no_second_try():
    half = b'HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 999\r\n\r\ndata: {"cho'
    server, _, codes = run(
        lambda _body, number: response() if number == 0 else half + b"" if number == 1 else None,
        requests=2,
        reuse=True,
        timeouts=Timeouts(first_token_s=0.3),
    )
    assert codes == [None, "first-token-timeout"]
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("encoding", "data"),
    [
        ("gzip", gzip.compress(EVENTS)),
        ("gzip", gzip.compress(EVENTS[:20]) + gzip.compress(EVENTS[20:])),
        ("x-gzip", gzip.compress(EVENTS)),
        ("deflate", zlib.compress(EVENTS)),
        ("deflate", zlib.compressobj(wbits=-15).compress(b"") + zlib.compress(EVENTS, wbits=-15)),
        ("identity", EVENTS),
    ],
)
def test_a_compressed_stream_is_read_and_noted(encoding, data):
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    _, (answer,), codes = run(lambda *_: head + chunked(data))
    assert (answer.text, codes) == ("hello", [None])
    assert any("compresses" in note for note in answer.notes) == (encoding != "identity")


def test_a_compressed_refusal_is_read_too():
    body = gzip.compress(b'{"error": {"message": "queue is full"}}')
    _, _, codes = run(lambda *_: response(body, status=503, headers="Content-Encoding: gzip\r\n"))
    assert codes == ["engine-busy"]


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip"])
def test_a_stream_in_an_encoding_that_nobody_asked_for_is_refused_by_name(encoding):
    _, _, codes = run(lambda *_: response(b"\x00", headers=f"Content-Encoding: {encoding}\r\n"))
    assert codes == ["compressed-stream"]


def test_damaged_compression_is_a_lost_connection():
    _, _, codes = run(lambda *_: response(b"\x1f\x8b\x08nonsense", headers="Content-Encoding: gzip\r\n"))
    assert codes == ["connection-lost"]


def test_a_small_stream_that_becomes_a_huge_one_is_bounded():
    bomb = gzip.compress(b"data: " + b"x" * 40_000_000)
    _, (answer,), codes = run(lambda *_: response(bomb, headers="Content-Encoding: gzip\r\n"))
    assert codes == ["answer-too-large"]
    assert answer.text == ""


@pytest.mark.parametrize("kind", ["text/html", "text/event-stream", "application/json"])
def test_a_sign_in_page_with_status_200_is_named_whatever_type_it_says(kind):
    page = b"<!DOCTYPE html><html><head><title>Sign in</title></head></html>"
    _, _, codes = run(lambda *_: response(page, kind=kind))
    assert codes == ["endpoint-web-page"]


@pytest.mark.parametrize(
    "kind", ["application/json", "text/event-stream", "text/plain", "application/octet-stream"]
)
def test_what_a_body_is_decides_and_not_its_type(kind):
    error = b'{"error": {"message": "CUDA out of memory"}}'
    assert run(lambda *_: response(error, kind=kind))[2] == ["engine-out-of-memory"]
    assert run(lambda *_: response(EVENTS, kind=kind))[2] == [None]


def test_a_body_without_length_ends_with_its_connection():
    _, (answer,), codes = run(lambda _body, _number: [CLOSES + EVENTS])
    assert (answer.text, codes) == ("hello", [None])


REFUSALS = [
    (400, {"error": {"message": "Unrecognized request argument supplied: temperature"}}, "temperature"),
    (422, {"detail": "Unexpected fields in the request: {'temperature'}"}, "temperature"),
    (422, {"detail": [{"type": "extra_forbidden", "loc": ["body", "temperature"],
                       "msg": "Extra inputs are not permitted", "input": 0}]}, "temperature"),
    (400, {"error": {"message": "Unsupported value", "param": "temperature", "code": "unsupported_value"}},
     "temperature"),
    (400, [{"error": {"code": 400, "message": 'Unknown name "temperature": Cannot find field.'}}],
     "temperature"),
    (400, {"error": {"message": "property 'stream_options' is unsupported"}}, "stream_options"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "name"), REFUSALS)
def test_a_field_that_is_refused_by_name_is_left_out_once_and_noted(status, body, name):
    def answer(request, _number):
        return response(json.dumps(body).encode(), status=status) if name in request else response()

    server, answers, codes = run(answer, requests=3)
    assert codes == [None] * 3
    assert len(server.requests) == 4  # asked in vain only once
    assert all(any(name in note for note in answer.notes) for answer in answers)


def test_several_refused_fields_are_left_out_one_by_one():
    def answer(request, _number):
        for name in ("stream_options", "temperature", "max_tokens"):
            if name in request:
                other = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
                words = f"Unsupported parameter: '{name}'.{other}"
                return response(b'{"error": {"message": "%s"}}' % words.encode(), status=400)
        return response()

    server, (answer,), codes = run(answer)
    assert codes == [None]
    assert server.requests[-1][1]["max_completion_tokens"] == GREEDY.max_tokens
    assert len(answer.notes) == 3


@pytest.mark.parametrize(
    "words",
    ["max_tokens is too large: unsupported", "Unsupported parameter: 'max_tokens'",
     "messages: unexpected role", "Unknown model m", "temperature must be at least 0.1"],
)  # fmt: skip
def test_what_can_not_be_left_out_is_a_refusal(words):
    body = b'{"error": {"message": "%s"}}' % words.encode()
    server, _, codes = run(lambda *_: response(body, status=400))
    assert codes != [None]
    assert len(server.requests) == 1


def test_fields_that_the_lane_adds_are_never_left_out():
    def answer(request, _number):
        return response(b'{"detail": "Unexpected fields: {\'min_p\'}"}', status=422)

    server, _, codes = run(answer, request=RequestOptions(extra_body='{"min_p": 0.1}'))
    assert codes == ["endpoint-refused"]
    assert len(server.requests) == 1


def test_headers_and_fields_of_the_lane_are_sent():
    options = RequestOptions(
        headers=(("X-Team", "lab"),), extra_body='{"min_p": 0.1}', max_tokens_name="max_completion_tokens"
    )
    server, _, _ = run(lambda *_: response(), request=options, api_key="sk")
    (headers,), ((_, body),) = server.headers, server.requests
    assert (headers["x-team"], headers["authorization"]) == ("lab", "Bearer sk")
    assert (body["min_p"], body["max_completion_tokens"]) == (0.1, GREEDY.max_tokens)


def test_a_redirect_on_the_same_host_is_followed_and_noted():
    def answer(request, _number):
        if request["path"].endswith("/"):
            return response()
        return response(b"", status=307, headers="Location: /v1/chat/completions/\r\n")

    server, (answer,), codes = run(answer)
    assert codes == [None]
    assert any("redirected" in note for note in answer.notes)
    assert server.requests[-1][1]["messages"]


@pytest.mark.parametrize(
    ("status", "target"),
    [
        (307, "http://example.invalid/v1"),
        (302, "https://127.0.0.1:9/v1"),
        (303, "/v1/other"),
        (308, "ftp://x/"),
    ],
)
def test_other_redirects_are_told_with_their_target(status, target):
    _, _, codes = run(lambda *_: response(b"", status=status, headers=f"Location: {target}\r\n"))
    assert codes == ["endpoint-redirects"]


def test_keep_alive_comments_prove_that_the_server_lives():
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    comment = b"e\r\n: processing\n\n\r\n"

    def slowly(*_):
        return [head, *[comment] * 60, chunked(EVENTS)]  # 0.6 s, each piece 10 ms after the other

    _, (answer,), codes = run(slowly, patience=Patience(first_token_s=0.25), run_loop=on_model_time)
    assert (answer.text, codes) == ("hello", [None])
    _, _, codes = run(
        lambda *_: [head, comment], patience=Patience(first_token_s=0.25), run_loop=on_model_time
    )
    assert codes == ["first-token-timeout"]


def test_the_lanes_own_time_outs_come_first():
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    event = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
    _, (answer,), codes = run(
        lambda *_: [head, b"%x\r\n%b\r\n" % (len(event), event)],
        patience=Patience(stall_s=0.2),
        run_loop=on_model_time,
    )
    assert (answer.text, codes) == ("a", ["stall-timeout"])


def test_more_of_a_stream_waits_until_others_had_their_turn(monkeypatch):
    """However much has arrived, little is parsed before other streams' bytes are timestamped."""
    monkeypatch.setattr(client_module, "_READ_BYTES", 1000)
    event = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
    turns = []

    async def main():
        async with serving(lambda *_: response(event * 2000 + EVENTS)) as server, open_session() as session:
            answer = Answer(Dialect.GENERIC)
            task = asyncio.create_task(
                send(session, at(server), MESSAGES, Sampling(max_tokens=9), answer, Timeouts())
            )
            while not task.done():
                before = len(answer._chunk_ns)
                await asyncio.sleep(0)
                turns.append(len(answer._chunk_ns) - before)
            await task
        return answer

    answer = asyncio.run(main())
    assert len(answer.text) == 2005
    assert max(turns) <= 1000 // len(event) + 2


def listing(answer, **more):
    async def main():
        async with serving(answer) as server, open_session() as session:
            return await with_model(session, replace(at(server), model=""), Timeouts(), **more)

    return asyncio.run(main())


def test_a_server_that_is_starting_is_asked_again(monkeypatch):
    monkeypatch.setattr(servers, "_BACK_OFF_S", 0.01)
    answers = iter([response(b"loading", status=503), response(b"", status=502), response(b'["a"]')])
    assert listing(lambda *_: next(answers)).model == "a"


def test_how_long_the_server_asks_to_wait_is_kept_within_a_bound(monkeypatch):
    monkeypatch.setattr(servers, "_BACK_OFF_S", 0.01)
    answers = iter([response(b"", status=429, headers="Retry-After: 0\r\n"), response(b'["a"]')])
    assert listing(lambda *_: next(answers)).model == "a"
    with pytest.raises(EngineBusy) as caught:
        listing(lambda *_: response(b"", status=503, headers="Retry-After: 600\r\n"), patience_s=1.0)
    assert "10 min" in caught.value.hint


def test_another_refusal_of_the_list_is_final():
    asked = []

    def answer(*_):
        asked.append(1)
        return response(b"no", status=500)

    with pytest.raises(LMDynoError):
        listing(answer)
    assert len(asked) == 1


def test_a_list_of_models_is_bounded():
    async def main():
        async with (
            serving(lambda *_: response(b"[" + b'"a",' * 10_000_000)) as server,
            open_session() as session,
        ):
            await list_models(session, at(server))

    with pytest.raises(LMDynoError) as caught:
        asyncio.run(main())
    assert caught.value.code == "endpoint-not-openai"


def test_never_a_proxy_for_this_machine(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://proxy.invalid:3128")
    monkeypatch.setenv("no_proxy", "internal.example")
    for host in ("localhost", "127.0.0.1", "127.3.2.1", "::1", "a.localhost"):
        assert proxy_for("http", host) is None
        assert is_loopback(host)
    assert proxy_for("http", "internal.example") is None
    assert proxy_for("http", "gpu-host") == "http://proxy.invalid:3128"
    monkeypatch.setenv("http_proxy", "socks5://proxy.invalid:1080")
    assert proxy_for("http", "gpu-host") is None


def test_a_request_to_this_machine_ignores_the_proxy(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert run(lambda *_: response())[2] == [None]


def test_plain_http_at_an_https_address_is_named():
    async def main():
        async with serving(lambda *_: response()) as server, open_session() as session:
            there = replace(at(server), url=server.url.replace("http", "https"))
            await send(session, there, MESSAGES, GREEDY, Answer(Dialect.GENERIC), Timeouts())

    with pytest.raises(LMDynoError) as caught:
        asyncio.run(main())
    assert caught.value.code == "tls-handshake"
    assert "http://" in caught.value.hint


def test_https_at_a_plain_address_is_named():
    alert = b"\x15\x03\x01\x00\x02\x02\x46"
    assert run(lambda *_: alert)[2] == ["tls-expected"]


def test_a_certificate_that_is_not_trusted_is_named():
    refused = ssl.SSLCertVerificationError("certificate verify failed")
    refused.verify_message = "self-signed certificate"
    key = aiohttp.client_reqrep.ConnectionKey("host", 443, True, True, None, None, None)
    error = connection_failure(
        aiohttp.ClientConnectorCertificateError(key, refused),
        Endpoint(url="https://host/v1", model="m", dialect=Dialect.GENERIC),
    )
    assert error.code == "tls-certificate"
    assert "self-signed" in error.message


def test_what_is_not_http_is_named():
    assert run(lambda *_: b"SSH-2.0-OpenSSH_9.6\r\n")[2] == ["endpoint-refused"]
