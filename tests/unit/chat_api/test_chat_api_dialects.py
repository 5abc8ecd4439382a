import json

import pytest

from core.chat_api import dialects
from core.chat_api.dialects import Usage, chat_body, read_event
from core.domain.sampling import Sampling
from core.domain.specs import Dialect
from core.domain.turns import FinishReason
from core.errors import EngineError
from tests.unit.meter.meter_samples import MESSAGES

WARM = Sampling(temperature=0.7, top_p=0.9, top_k=40, repetition_penalty=1.1, seed=7, max_tokens=32)


def body(dialect, sampling):
    return chat_body(dialect, "m", MESSAGES, sampling)


def generation_config(sampling):
    return json.loads(body(Dialect.TRANSFORMERS, sampling)["generation_config"])


@pytest.mark.parametrize("dialect", Dialect)
def test_every_dialect_streams_the_messages(dialect):
    sent = body(dialect, Sampling(max_tokens=5))
    assert sent["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "你好"},
    ]
    assert (sent["model"], sent["stream"], sent["max_tokens"]) == ("m", True, 5)


def test_greedy_for_lmdeploy_is_top_k_one():
    sent = body(Dialect.LMDEPLOY, Sampling(top_p=0.5, top_k=40, seed=1))
    assert (sent["temperature"], sent["top_k"], sent["top_p"], sent["repetition_penalty"]) == (0, 1, 1, 1)
    assert "seed" not in sent


def test_sampling_for_lmdeploy():
    sent = body(Dialect.LMDEPLOY, WARM)
    expected = {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "repetition_penalty": 1.1, "seed": 7}
    assert sent.items() >= expected.items()
    assert sent["return_token_ids"] is True
    assert sent["stream_options"] == {"include_usage": True}


def test_all_tokens_stay_in_for_lmdeploy_instead_of_its_default_of_50():
    assert body(Dialect.LMDEPLOY, Sampling(temperature=1))["top_k"] == 0


def test_fixed_length_for_lmdeploy():
    sent = body(Dialect.LMDEPLOY, Sampling(max_tokens=64, fixed_length=True))
    assert (sent["ignore_eos"], sent["min_new_tokens"], sent["max_tokens"]) == (True, 64, 64)


def test_greedy_for_transformers_turns_sampling_off():
    assert generation_config(Sampling(max_tokens=9)) == {
        "do_sample": False, "max_new_tokens": 9, "repetition_penalty": 1.0
    }  # fmt: skip


def test_sampling_for_transformers_travels_in_its_generation_config():
    assert generation_config(WARM) == {
        "do_sample": True, "temperature": 0.7, "top_p": 0.9, "top_k": 40, "repetition_penalty": 1.1,
        "max_new_tokens": 32,
    }  # fmt: skip
    assert body(Dialect.TRANSFORMERS, WARM)["seed"] == 7


def test_fixed_length_for_transformers():
    config = generation_config(Sampling(max_tokens=64, fixed_length=True))
    assert config["min_new_tokens"] == config["max_new_tokens"] == 64


def test_transformers_gets_only_fields_that_it_takes():
    taken = {"model", "messages", "stream", "max_tokens", "seed", "generation_config"}
    assert set(body(Dialect.TRANSFORMERS, WARM)) <= taken


def test_a_generic_server_gets_openai_fields_unless_more_is_asked_for():
    plain = body(Dialect.GENERIC, Sampling(temperature=0.5, seed=3))
    assert set(plain) == {
        "model", "messages", "stream", "max_tokens", "stream_options", "temperature", "top_p", "seed"
    }  # fmt: skip
    assert dialects.notes(Dialect.GENERIC, Sampling(temperature=0.5)) == ()


def test_more_than_openai_has_is_noted_for_a_generic_server():
    sampling = Sampling(temperature=1, top_k=5, repetition_penalty=1.2, max_tokens=8, fixed_length=True)
    sent = body(Dialect.GENERIC, sampling)
    assert (sent["top_k"], sent["repetition_penalty"], sent["ignore_eos"]) == (5, 1.2, True)
    (note,) = dialects.notes(Dialect.GENERIC, sampling)
    assert all(name in note for name in ("top_k", "repetition_penalty", "ignore_eos"))
    assert dialects.notes(Dialect.LMDEPLOY, sampling) == ()


def chunk(delta=None, **more):
    choice = {"index": 0, "delta": delta or {}, **more}
    return json.dumps({"model": "m", "choices": [choice]}).encode()


def test_role_only_and_empty_chunks_have_no_text():
    assert read_event(chunk({"role": "assistant"})).content == ""
    assert read_event(chunk({"role": "assistant", "content": None})).content == ""
    assert read_event(chunk({"content": ""})).has_choices


def test_text_of_both_kinds():
    assert read_event(chunk({"content": "你"})).content == "你"
    assert read_event(chunk({"reasoning_content": "hm"})).reasoning == "hm"
    assert read_event(chunk({"reasoning": "hm"})).reasoning == "hm"


def test_tokens_are_counted_by_their_ids():
    assert read_event(chunk({"content": "ab"}, output_ids=[5, 6])).tokens == 2
    assert read_event(chunk({"content": "ab"})).tokens is None


def test_usage_with_and_without_choices():
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 1}}
    apart = json.dumps({"choices": [], "usage": usage}).encode()
    beside = json.dumps({"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": usage}).encode()
    assert read_event(apart).usage == read_event(beside).usage == Usage(3, 4, 1)
    assert read_event(b'{"choices": [], "usage": {"prompt_tokens": 3}}').usage == Usage(3, None, None)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('{"error": {"message": "no", "code": 500}}', "no"),
        ('{"error": "no"}', "no"),
        ('{"error": "can\'t say "this" unescaped"}', 'can\'t say "this" unescaped'),
        ('{"message": "no", "object": "error"}', "no"),
        ('{"detail": "no"}', "no"),
        ('{"choices": [{"delta": {}}], "error": {"message": "no"}}', "no"),
    ],
)
def test_an_error_in_the_stream_in_any_shape(data, message):
    error = read_event(data.encode()).error
    assert error is not None
    assert error.message == message


@pytest.mark.parametrize(
    "data", ["no JSON", "[1]", '{"choices": 3}', '{"choices": [{"delta": {"content": [1]}}]}']
)
def test_what_is_no_chat_event_is_an_error(data):
    with pytest.raises(EngineError) as caught:
        read_event(data.encode())
    assert caught.value.code == "bad-stream"


def test_only_transformers_counts_the_closing_eos():
    assert dialects.output_tokens(Dialect.TRANSFORMERS, 5, FinishReason.STOP) == 4
    assert dialects.output_tokens(Dialect.TRANSFORMERS, 5, FinishReason.LENGTH) == 5
    assert dialects.output_tokens(Dialect.TRANSFORMERS, 0, FinishReason.STOP) == 0
    assert dialects.output_tokens(Dialect.LMDEPLOY, 5, FinishReason.STOP) == 5


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("stop", FinishReason.STOP),
        ("length", FinishReason.LENGTH),
        ("abort", FinishReason.ERROR),
        ("error", FinishReason.ERROR),
        ("content_filter", FinishReason.STOP),
    ],
)
def test_finish_reasons(word, reason):
    assert dialects.finish_reason(word) is reason
