import json

import pytest

from core.chat_api.failures import broken_off, refusal
from core.errors import EngineBusy, EngineError, EngineOutOfMemory, InputError

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
    (429, {"error": {"message": "Rate limit reached"}}, EngineBusy, "engine-busy"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "kind", "code"), CASES)
def test_what_servers_say_becomes_one_of_our_errors(status, body, kind, code):
    error = refusal(status, json.dumps(body).encode())
    assert (type(error), error.code) == (kind, code)
    assert error.hint


@pytest.mark.parametrize("body", [b"<html>Bad Gateway</html>", b"", b"[]", b"\xff"])
def test_a_body_in_no_known_shape(body):
    error = refusal(502, body)
    assert error.code == "endpoint-refused"
    assert "502" in error.message


def test_the_servers_words_are_cut_at_a_readable_length():
    assert len(refusal(500, b'{"detail": "%s"}' % (b"x" * 10_000)).message) < 1000


def test_credentials_in_an_address_are_not_shown():
    assert "hunter2" not in broken_off("http://me:hunter2@host/v1").message
