import json

import pytest

from core.chat_api import dialects
from core.chat_api.dialects import chat_body, customised
from core.domain.conversation import Message, Role, Sampling
from core.domain.specs import Dialect, RequestOptions
from core.domain.turns import FinishReason
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
    assert dialects.notes(Dialect.GENERIC, Sampling()) == ()


def test_what_a_generic_server_may_add_by_itself_is_noted():
    (note,) = dialects.notes(Dialect.GENERIC, Sampling(temperature=0.5))
    assert "top_k" in note
    for dialect in (Dialect.VLLM, Dialect.LLAMACPP, Dialect.SGLANG):
        assert dialects.notes(dialect, Sampling(temperature=0.5)) == ()


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [
        (Dialect.VLLM, {"top_k": -1, "min_p": 0, "repetition_penalty": 1.0, "return_token_ids": True}),
        (Dialect.SGLANG, {"top_k": -1, "min_p": 0, "repetition_penalty": 1.0}),
        (Dialect.LLAMACPP, {"top_k": 0, "min_p": 0, "repeat_penalty": 1.0, "timings_per_token": True}),
    ],
)
def test_servers_with_defaults_of_their_own_are_told_every_setting(dialect, expected):
    sent = body(dialect, Sampling(temperature=1, top_p=0.9))
    assert sent.items() >= {**expected, "temperature": 1, "top_p": 0.9}.items()
    assert body(dialect, WARM)["top_k"] == 40
    assert body(dialect, Sampling(max_tokens=7, fixed_length=True))["ignore_eos"] is True


def test_a_lane_can_name_leave_out_and_add_fields():
    options = RequestOptions(
        max_tokens_name="max_completion_tokens",
        leave_out=("temperature",),
        extra_body='{"reasoning_effort": "low"}',
    )
    sent = customised(body(Dialect.GENERIC, Sampling(max_tokens=9)), options)
    assert sent["max_completion_tokens"] == 9
    assert sent["reasoning_effort"] == "low"
    assert {"max_tokens", "temperature"}.isdisjoint(sent)
    notes = dialects.notes(Dialect.GENERIC, Sampling(), options)
    assert any("temperature" in note for note in notes)


def test_half_characters_in_a_prompt_do_not_stop_the_request():
    sent = chat_body(Dialect.GENERIC, "m", (Message(Role.USER, "a\ud83d b \ud83d\ude00"),), Sampling())
    assert sent["messages"][0]["content"] == "a\ufffd b 😀"


def test_more_than_openai_has_is_noted_for_a_generic_server():
    sampling = Sampling(temperature=1, top_k=5, repetition_penalty=1.2, max_tokens=8, fixed_length=True)
    sent = body(Dialect.GENERIC, sampling)
    assert (sent["top_k"], sent["repetition_penalty"], sent["ignore_eos"]) == (5, 1.2, True)
    (note,) = dialects.notes(Dialect.GENERIC, sampling)
    assert all(name in note for name in ("top_k", "repetition_penalty", "ignore_eos"))
    assert dialects.notes(Dialect.LMDEPLOY, sampling) == ()


@pytest.mark.parametrize("dialect", [Dialect.TRANSFORMERS, Dialect.VLLM, Dialect.LLAMACPP, Dialect.SGLANG])
def test_a_counted_closing_eos_is_taken_off(dialect):
    assert dialects.output_tokens(dialect, 5, FinishReason.STOP) == 4
    assert dialects.output_tokens(dialect, 5, FinishReason.LENGTH) == 5
    assert dialects.output_tokens(dialect, 0, FinishReason.STOP) == 0


def test_lmdeploy_counts_no_eos():
    assert dialects.output_tokens(Dialect.LMDEPLOY, 5, FinishReason.STOP) == 5


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("stop", FinishReason.STOP),
        ("length", FinishReason.LENGTH),
        ("abort", FinishReason.ERROR),
        ("error", FinishReason.ERROR),
        ("content_filter", FinishReason.CONTENT_FILTER),
        ("tool_calls", FinishReason.TOOL_CALLS),
        ("STOP", FinishReason.STOP),
        ("insufficient_system_resource", FinishReason.ERROR),
        ("network_error", FinishReason.ERROR),
        ("request timed out", FinishReason.ERROR),
        ("repetition", FinishReason.STOP),
    ],
)
def test_finish_reasons(word, reason):
    assert dialects.finish_reason(word) is reason
