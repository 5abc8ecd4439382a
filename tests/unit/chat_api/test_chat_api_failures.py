"""What servers say when they refuse, worded by the status first and then by their words."""

import json

import pytest

from core.chat_api.failures import broken_off, failure, not_a_stream
from core.chat_api.lenient import refused
from core.domain.specs import Dialect, Endpoint
from core.errors import EngineBusy, EngineCrashed, EngineError, EngineOutOfMemory, InputError

REMOTE = Endpoint(url="http://host/v1", model="m", dialect=Dialect.GENERIC)
LOCAL = Endpoint(url="http://127.0.0.1:1/v1", model="m", dialect=Dialect.GENERIC, device="cpu")
WITH_KEY = Endpoint(url="http://host/v1", model="m", dialect=Dialect.GENERIC, api_key="sk-secret")

CASES = [
    # LMDeploy
    (400, {"message": "Input length (1214) must be smaller than the model context length (256)."},
     InputError, "prompt-too-long"),
    (404, {"message": "The model `x` does not exist."}, EngineError, "model-not-found"),
    (401, {"message": "Unauthorized.", "type": "authentication_error"}, EngineError, "endpoint-unauthorised"),
    (503, {"message": "The inference engine is unavailable."}, EngineBusy, "engine-busy"),
    (500, {"message": "kOutOfMemory"}, EngineOutOfMemory, "engine-out-of-memory"),
    (400, {"message": "The temperature 3 must be in [0, 2]"}, EngineError, "endpoint-refused"),
    # transformers serve
    (400, {"detail": "Server is pinned to 'a'; requested 'b'."}, EngineError, "model-not-found"),
    (422, {"detail": "Unexpected fields in the request: {'top_k'}"}, EngineError, "endpoint-refused"),
    (422, {"detail": [{"loc": ["body"], "msg": "Field required"}]}, EngineError, "endpoint-refused"),
    (503, {"error": "worker died"}, EngineBusy, "engine-busy"),
    (500, {"error": "CUDA out of memory."}, EngineOutOfMemory, "engine-out-of-memory"),
    (500, {"error": "Conversation roles must alternate user/assistant"}, EngineError, "chat-template"),
    # OpenAI's shape: vLLM, llama.cpp, hosted APIs
    (400, {"error": {"message": "This model's maximum context length is 4096 tokens", "code": 400}},
     InputError, "prompt-too-long"),
    (400, {"error": {"message": "the request exceeds the available context size, try increasing it"}},
     InputError, "prompt-too-long"),
    (403, {"error": {"message": "no"}}, EngineError, "endpoint-unauthorised"),
    (404, {"error": {"message": "model 'x' not found"}}, EngineError, "model-not-found"),
    (404, {"detail": "Not Found"}, EngineError, "endpoint-refused"),
    (400, {"message": "Multimodal input is not supported by this model."}, InputError, "text-only"),
    (400, {"error": {"message": "qwen is not a multimodal model"}}, InputError, "text-only"),
    (500, {"error": {"message": "image input is not supported - hint: provide the mmproj"}},
     InputError, "text-only"),
    # Throttling, quota, and words that mean something else under another status
    (429, {"error": {"message": "Rate limit reached"}}, EngineBusy, "engine-busy"),
    (429, {"message": "Too many tokens, please wait before trying again."}, EngineBusy, "engine-busy"),
    (429, {"error": {"message": "You exceeded your current quota", "code": "insufficient_quota"}},
     EngineError, "quota-exhausted"),
    (402, {"error": {"message": "Insufficient Balance"}}, EngineError, "quota-exhausted"),
    (413, {"error": {"message": "Request too large: tokens per minute (TPM): Limit 6000, Requested 7000"}},
     EngineBusy, "engine-busy"),
    (413, "<html><head><title>413 Request Entity Too Large</title></head></html>",
     InputError, "request-too-large"),
    (504, "<html><title>504 Gateway Time-out</title></html>", EngineBusy, "gateway-timeout"),
    (403, {"error": "Your account has no credits left"}, EngineError, "quota-exhausted"),
    (403, {"error": "No access to this region"}, EngineError, "endpoint-unauthorised"),
    (401, {"error": {"message": "maximum context length"}}, EngineError, "endpoint-unauthorised"),
    (400, "<html><head><title>400 The plain HTTP request was sent to HTTPS port</title></head></html>",
     EngineError, "tls-expected"),
]  # fmt: skip


LENGTHS = [
    ("'max_tokens' or 'max_completion_tokens' is too large: 100000. This model's maximum context length is "
     "4096 tokens and your request has 12 input tokens", "max-tokens-too-large"),
    ("This model's maximum context length is 4097 tokens. However, you requested 5000 tokens (1000 in the "
     "messages, 4000 in the completion).", "max-tokens-too-large"),
    ("This model's maximum context length is 4097 tokens. However, you requested 6000 tokens (5000 in the "
     "messages, 1000 in the completion).", "prompt-too-long"),
    ("Requested token count exceeds the model's maximum context length of 4096 tokens. You requested a total "
     "of 4200 tokens: 200 tokens from the input messages and 4000 tokens for the completion.",
     "max-tokens-too-large"),
    ("Invalid max_tokens value, the valid range of max_tokens is [1, 8192]", "max-tokens-too-large"),
    ("Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 100 `inputs` tokens "
     "and 5000 `max_new_tokens`", "max-tokens-too-large"),
    ("max_tokens is too large: 200000. This model supports at most 16384 completion tokens, whereas you "
     "provided 200000.", "max-tokens-too-large"),
    ("input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000", "max-tokens-too-large"),
    ("prompt is too long: 200001 tokens > 200000 maximum", "prompt-too-long"),
    ("The input token count (1200000) exceeds the maximum number of tokens allowed", "prompt-too-long"),
    ("The input (5000 tokens) is longer than the model's context length (4096 tokens).", "prompt-too-long"),
    ("The prompt (total length 9000) is too long to fit into the model (8192)", "prompt-too-long"),
    ("Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
     "prompt-too-long"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "code"), LENGTHS)
@pytest.mark.parametrize("shape", ["openai", "google"])
def test_an_answer_that_is_too_long_is_told_from_a_prompt_that_is(words, code, shape):
    body = {"error": {"message": words, "code": 400}}
    error = refusal(400, body if shape == "openai" else [body])
    assert (type(error), error.code) == (InputError, code)


def refusal(status, body, endpoint=REMOTE, retry_after=None):
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    return failure(refused(status, data, retry_after), endpoint)


@pytest.mark.parametrize(("status", "body", "kind", "code"), CASES)
def test_what_servers_say_becomes_one_of_our_errors(status, body, kind, code):
    error = refusal(status, body)
    assert (type(error), error.code) == (kind, code)
    assert error.hint


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([{"error": {"code": 400, "message": "Bad thing", "status": "INVALID_ARGUMENT"}}], "Bad thing"),
        ({"detail": [{"loc": ["body", "top_k"], "msg": "Extra inputs are not permitted"}]},
         "body.top_k: Extra inputs are not permitted"),
        ({"object": "error", "message": {"detail": [{"loc": ["body", "n"], "msg": "not allowed"}]}},
         "body.n: not allowed"),
        ({"error": {"message": {"detail": "inner words"}}}, "inner words"),
        ("<!DOCTYPE html><html><head><style>p{}</style><title>502 Bad Gateway</title></head><body><h1>"
         "502 Bad Gateway</h1><script>x()</script><p>nginx</p></body></html>", "502 Bad Gateway nginx"),
        ("plain words\nin two lines", "plain words in two lines"),
    ],
)  # fmt: skip
def test_the_words_for_people_are_told_and_no_markup(body, words):
    assert f": {words}" in refusal(400, body).message


@pytest.mark.parametrize(
    "body", [b"<html>Bad Gateway</html>", b"", b"[]", b"\xff", b"3", b"null", b'{"a": {}}']
)
def test_a_body_in_no_known_shape(body):
    error = failure(refused(502, body), REMOTE)
    assert error.code == "endpoint-refused"
    assert "502" in error.message


def test_how_long_the_server_asks_to_wait_is_told():
    assert "20 s" in refusal(429, {"error": "slow down"}, retry_after="20").hint
    assert "wait" not in refusal(429, {"error": "slow down"}, retry_after="soon").hint


def test_an_account_without_quota_is_not_told_to_wait():
    throttled = refusal(
        429, {"error": {"message": "Rate limit: quota of requests per minute, try again in 20 s"}}
    )
    assert throttled.code == "engine-busy"


@pytest.mark.parametrize("status", [401, 403])
def test_a_key_is_only_said_to_be_refused_if_one_was_sent(status):
    without = refusal(status, {"error": {"message": "Missing key header"}})
    with_key = refusal(status, {"error": {"message": "Missing key header"}}, WITH_KEY)
    assert "didn't accept" not in without.message
    assert "without an API key" in without.message
    assert "without" not in with_key.message
    for error in (without, with_key):
        assert "Missing key header" in error.message
        assert "sk-secret" not in f"{error.message} {error.hint}"


def test_the_servers_words_are_cut_at_a_readable_length_and_hold_no_terminal_codes():
    assert len(refusal(500, {"detail": "x" * 10_000}).message) < 1000
    assert "\x1b" not in refusal(500, {"detail": "\x1b[31mred\x07"}).message


def test_credentials_in_an_address_are_not_shown():
    endpoint = Endpoint(url="http://me:hunter2@host/v1", model="m", dialect=Dialect.GENERIC)
    assert "hunter2" not in broken_off(endpoint).message


def test_only_an_engine_of_ours_can_crash():
    assert type(broken_off(LOCAL)) is EngineCrashed
    assert (type(broken_off(REMOTE)), broken_off(REMOTE).code) == (EngineError, "connection-lost")


def test_a_web_page_instead_of_a_stream_is_named():
    error = not_a_stream(REMOTE, b"<!doctype html><title>Sign in</title><p>Password</p>")
    assert error.code == "endpoint-web-page"
    assert "Sign in Password" in error.message


@pytest.mark.parametrize("rest", ["<![x", "<![CDATA[", "<!DOCTYPE [", "<!", "</", "&#xffffffff;"])
def test_a_page_that_breaks_off_in_odd_markup_is_told_as_far_as_it_can_be_read(rest):
    page = f"<html><body><h1>Bad Gateway</h1>{rest}".encode()
    assert (
        "Bad Gateway"
        in failure(
            refused(502, page), Endpoint(url="http://h/v1", model="m", dialect=Dialect.GENERIC)
        ).message
    )
