"""What a lane says of its server: what is sent, how long it is waited for, how tokens are counted.

Where API keys may come from, and where they may go."""

from dataclasses import replace

import pytest

from core.config import load_lanes, save_lane
from core.config.endpoints import api_key, bind_for_command, key_names
from core.domain.specs import Dialect, EndpointSpec, EngineKind, LaneSpec, Patience, RequestOptions
from core.engines.resolve import find_endpoint
from core.errors import ConfigError
from core.settings import load_settings

EP = '[lanes.lab]\nengine = "endpoint"\nurl = " https://lab/v1/ "\n'


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


URL = "http://gpu-host:23333/v1"
LANE = f'[lanes.lab]\nengine = "endpoint"\nurl = "{URL}"\napi_key = "NAME"\n'


@pytest.fixture
def settings(tmp_path):
    return replace(
        load_settings({"LMDYNO_HOME": str(tmp_path)}),
        lanes_file=tmp_path / "lanes.toml",
        secrets_file=tmp_path / "secrets.toml",
    )


def refused(settings, name, url=URL):
    with pytest.raises(ConfigError) as raised:
        api_key(settings, name, url)
    assert name not in f"{raised.value.message}{raised.value.hint}"
    return raised.value


def test_a_variable_with_the_prefix_goes_to_the_lanes_of_the_lanes_file(settings, monkeypatch):
    monkeypatch.setenv("LMDYNO_KEY_LAB", " sk-lab\n")
    settings.lanes_file.write_text(LANE.replace("NAME", "LMDYNO_KEY_LAB"))
    assert api_key(settings, "LMDYNO_KEY_LAB", URL) == "sk-lab"
    assert api_key(settings, "LMDYNO_KEY_LAB", "http://GPU-HOST:23333/other") == "sk-lab"
    for elsewhere in ("http://evil/v1", "http://gpu-host:9000/v1", "https://gpu-host:23333/v1", "gpu-host"):
        assert refused(settings, "LMDYNO_KEY_LAB", elsewhere).code == "key-not-for-host"


@pytest.mark.parametrize("name", ["HOME", "LMDYNO_DATABASE_URL", "AWS_SECRET_ACCESS_KEY", "TOP_LEVEL"])
def test_no_other_variable_nor_secret_is_a_key(settings, monkeypatch, name):
    monkeypatch.setenv(name, "precious")
    settings.lanes_file.write_text(LANE.replace("NAME", name))
    settings.secrets_file.write_text('TOP_LEVEL = "precious"\nLMDYNO_KEY_TOP = "precious"\n')
    error = refused(settings, name)
    assert error.code == "key-name"
    assert "LMDYNO_KEY_" in error.hint
    assert "precious" not in f"{error.message}{error.hint}"
    assert refused(settings, "LMDYNO_KEY_TOP").code == "key-missing"


def test_nobody_learns_which_variables_there_are(settings, monkeypatch):
    monkeypatch.setenv("IS_THERE", "precious")
    there, missing = refused(settings, "IS_THERE"), refused(settings, "IS_NOT_THERE")
    assert (there.message, there.hint) == (missing.message, missing.hint)


def test_a_lane_that_the_dashboard_keeps_binds_no_key(settings, monkeypatch):
    monkeypatch.setenv("LMDYNO_KEY_LAB", "sk-lab")
    spec = EndpointSpec(url="http://evil/v1", api_key_name="LMDYNO_KEY_LAB")
    save_lane(settings, LaneSpec(name="evil", kind=EngineKind.ENDPOINT, endpoint=spec))
    assert refused(settings, "LMDYNO_KEY_LAB", "http://evil/v1").code == "key-not-for-host"


@pytest.mark.parametrize(
    ("hosts", "url", "fits"),
    [
        ("gpu-host", URL, True),
        ("gpu-host:23333", URL, True),
        ("gpu-host:23334", URL, False),
        ("other, gpu-host", URL, True),
        ("https://api.example.com", "https://api.example.com/v1", True),
        ("https://api.example.com", "https://api.example.com:443/v1", True),
        ("https://api.example.com", "http://api.example.com/v1", False),
        ("example.com", "https://api.example.com/v1", False),
        ("example.com", "https://example.com.evil.org/v1", False),
        ("example.com", "https://example.com@evil.org/v1", False),
        ("[::1]:8000", "http://[::1]:8000/v1", True),
        ("", "http:///v1", False),
        ("host:port", URL, False),
    ],
)
def test_hosts_of_a_variable_and_of_a_table(settings, monkeypatch, hosts, url, fits):
    monkeypatch.setenv("LMDYNO_KEY_LAB", "sk-lab")
    monkeypatch.setenv("LMDYNO_KEY_LAB_HOSTS", hosts)
    listed = ", ".join(f'"{host.strip()}"' for host in hosts.split(","))
    settings.secrets_file.write_text(f'[keys.TABLE]\nkey = "sk-table"\nhosts = [{listed}]\n')
    for name, key in (("LMDYNO_KEY_LAB", "sk-lab"), ("TABLE", "sk-table")):
        if fits:
            assert api_key(settings, name, url) == key
        else:
            assert refused(settings, name, url).code == "key-not-for-host"


def test_a_command_line_binds_a_key_to_its_endpoints(settings, monkeypatch):
    monkeypatch.setenv("LMDYNO_KEY_LAB", "sk-lab")
    monkeypatch.setenv("LMDYNO_KEY_LAB_COMMAND_HOSTS", "")
    for url in (URL, "http://other:1/v1"):
        bind_for_command(settings, "LMDYNO_KEY_LAB", url)
        assert api_key(settings, "LMDYNO_KEY_LAB", url) == "sk-lab"
    assert refused(settings, "LMDYNO_KEY_LAB", "http://third/v1").code == "key-not-for-host"


@pytest.mark.parametrize("by_table", [False, True])
def test_a_command_line_sends_a_key_with_listed_hosts_nowhere_else(settings, monkeypatch, by_table):
    monkeypatch.setenv("LMDYNO_KEY_LAB", "sk-lab")
    if by_table:
        settings.secrets_file.write_text('[keys.LMDYNO_KEY_LAB]\nhosts = ["gpu-host"]\n')
    else:
        monkeypatch.setenv("LMDYNO_KEY_LAB_HOSTS", "gpu-host")
    bind_for_command(settings, "LMDYNO_KEY_LAB", "http://other:1/v1")
    assert refused(settings, "LMDYNO_KEY_LAB", "http://other:1/v1").code == "key-not-for-host"
    assert api_key(settings, "LMDYNO_KEY_LAB", URL) == "sk-lab"


def test_the_names_are_listed_without_values(settings, monkeypatch):
    monkeypatch.setenv("LMDYNO_KEY_B", "sk-b")
    monkeypatch.setenv("LMDYNO_KEY_B_HOSTS", "gpu-host")
    monkeypatch.setenv("OTHER", "x")
    settings.secrets_file.write_text('[keys.A]\nkey = "sk-a"\n[keys.LMDYNO_KEY_B]\nhosts = ["gpu-host"]\n')
    assert set(key_names(settings)) >= {"A", "LMDYNO_KEY_B"}
    assert not {"LMDYNO_KEY_B_HOSTS", "OTHER"} & set(key_names(settings))
    assert refused(settings, "LMDYNO_KEY_B_HOSTS").code == "key-name"


@pytest.mark.parametrize(
    "written",
    ['keys = "sk"\n', '[keys]\nLAB = "sk"\n', '[keys.LAB]\nkey = 1\n', '[keys.LAB]\nhosts = "lab"\n',
     '[keys.LAB]\nkey = "sk"\nhost = "lab"\n'],
)  # fmt: skip
def test_a_faulty_table_is_told_without_its_value(settings, written):
    settings.secrets_file.write_text(written)
    with pytest.raises(ConfigError, match=r"secrets\.toml") as raised:
        key_names(settings)
    assert "sk" not in raised.value.message


def test_a_key_with_a_line_break_inside_is_refused_by_name(settings, monkeypatch):
    monkeypatch.setenv("LMDYNO_KEY_LAB", "sk\r\nHost: evil")
    monkeypatch.setenv("LMDYNO_KEY_LAB_HOSTS", "gpu-host")
    assert refused(settings, "LMDYNO_KEY_LAB").code == "key-unusable"
