"""What a lane says of its server: what is sent, how long it is waited for, how tokens are counted."""

from dataclasses import replace

import pytest

from core.config import load_lanes
from core.config.changes import save_lane
from core.config.keys import api_key
from core.domain.specs import Dialect, Patience, RequestOptions
from core.engines.resolve import find_endpoint
from core.errors import ConfigError
from core.settings import load_settings

EP = '[lanes.lab]\nengine = "endpoint"\nurl = " https://lab/v1/ "\n'


@pytest.fixture
def settings(tmp_path):
    return replace(load_settings({"LMDYNO_HOME": str(tmp_path)}), lanes_file=tmp_path / "lanes.toml")


@pytest.fixture
def load(settings):
    def load(text):
        settings.lanes_file.write_text(text)
        return load_lanes(settings, gpu=False)

    return load


FULL = (
    EP
    + """
dialect = "llamacpp"
headers = { X-Team = "lab", X-Key = "$LMDYNO_KEY_TEAM" }
extra_body = { reasoning_effort = "low", provider = { order = ["a"] } }
max_tokens_name = "max_completion_tokens"
leave_out = ["temperature", "seed"]
tokenizer = "tok"
first_token_timeout_s = 900
stall_timeout_s = 120.5
"""
)


def test_everything_that_a_server_may_want(load, tmp_path):
    lane = load(FULL).lane("lab")
    assert lane.endpoint.url == "https://lab/v1"
    assert lane.endpoint.dialect is Dialect.LLAMACPP
    assert lane.endpoint.tokenizer == str(tmp_path / "tok")
    assert lane.patience == Patience(first_token_s=900, stall_s=120.5)
    assert lane.endpoint.request == RequestOptions(
        headers=(("X-Team", "lab"), ("X-Key", "$LMDYNO_KEY_TEAM")),
        extra_body='{"reasoning_effort": "low", "provider": {"order": ["a"]}}',
        max_tokens_name="max_completion_tokens",
        leave_out=("temperature", "seed"),
    )


def test_the_dashboard_keeps_all_of_it(load, settings):
    lane = load(FULL).lane("lab")
    save_lane(settings, lane)
    assert load_lanes(settings, gpu=False).lane("lab") == lane


def test_a_local_lane_has_patience_too(load, settings):
    registry = load(
        '[models.demo]\ncheckpoint = "demo"\n'
        '[lanes.hf]\nengine = "transformers"\nmodel = "demo"\nfirst_token_timeout_s = 600\n'
    )
    lane = registry.lane("hf")
    assert lane.patience == Patience(first_token_s=600)
    save_lane(settings, lane)
    assert load_lanes(settings, gpu=False).lane("hf") == lane


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('headers = "x"', "headers is not a table"),
        ('headers = { "a b" = "x" }', "headers.a b is not a valid HTTP header"),
        ("headers = { a = 5 }", "headers.a is not a valid HTTP header"),
        ('headers = { a = "x\\ny" }', "headers.a is not a valid HTTP header"),
        ("extra_body = [1]", "extra_body is not a table"),
        ('extra_body = { model = "x" }', "extra_body.model is set by LMDyno"),
        ('max_tokens_name = "length"', 'max_tokens_name is "length"'),
        ('leave_out = "seed"', "leave_out is not a list"),
        ('leave_out = ["messages"]', "leave_out is not a list"),
        ("leave_out = [3]", "leave_out is not a list"),
        ("first_token_timeout_s = 0", "first_token_timeout_s is 0"),
        ("stall_timeout_s = true", "stall_timeout_s is true"),
        ("tokenizer = 5", "tokenizer is not text"),
        ('vision = "yes"', 'vision is "yes"'),
        ('temperature = "x"', "temperature is not a key"),
    ],
)
def test_mistakes_are_told_with_their_key(load, line, message):
    with pytest.raises(ConfigError) as caught:
        load(EP + line + "\n")
    assert message in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("url", ["https://lab/v1\\nHost: x", "https://la b/v1", "lab/v1"])
def test_an_address_with_something_else_in_it_is_none(load, url):
    with pytest.raises(ConfigError, match="not a valid URL"):
        load(EP.replace(" https://lab/v1/ ", url))


def test_a_name_with_a_dot_is_told_to_be_quoted(load):
    with pytest.raises(ConfigError) as caught:
        load('[lanes.qwen2.5]\nengine = "endpoint"\nurl = "http://h/v1"\n')
    assert '[lanes."qwen2.5"]' in caught.value.hint
    assert load('[lanes."qwen2.5"]\nengine = "endpoint"\nurl = "http://h/v1"\n').lane("qwen2.5")


def test_a_key_in_a_header_is_looked_up_and_bound_like_any_key(load, settings, monkeypatch):
    lane = load(FULL).lane("lab")
    with pytest.raises(ConfigError) as missing:
        find_endpoint(settings, lane)
    assert "LMDYNO_KEY_TEAM" in missing.value.message
    monkeypatch.setenv("LMDYNO_KEY_TEAM", "sk-team\n")
    endpoint = find_endpoint(settings, lane)
    assert dict(endpoint.request.headers) == {"X-Team": "lab", "X-Key": "sk-team"}
    assert endpoint.patience == lane.patience
    assert "sk-team" not in repr(endpoint)
    with pytest.raises(ConfigError):
        api_key(settings, "LMDYNO_KEY_TEAM", "https://elsewhere/v1")
