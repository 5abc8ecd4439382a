"""`[cluster]` and the node of a lane: what the lanes file may say, and what the dashboard's changes keep.

The lanes file: what it may say, and the line, key and allowed values for what it may not."""

from dataclasses import fields, replace

import pytest

from core.config import (
    LaneRegistry,
    changes_file,
    demo_model,
    demo_vision_model,
    lanes,
    load_lanes,
    save_lane,
)
from core.config.lanes import native_dtype
from core.domain.specs import (
    SETTINGS_OF,
    WEIGHTS_OF,
    ClusterSpec,
    Dialect,
    EndpointSpec,
    EngineKind,
    EngineSettings,
    Weights,
)
from core.errors import ConfigError
from core.settings import PROJECT_ROOT, load_settings

LANES = '[models.demo]\ncheckpoint = "demo"\n[lanes.hf]\nengine = "transformers"\nmodel = "demo"\n'


@pytest.mark.parametrize("address", ["auto", "ray-head:6379", "127.0.0.2:6391", "[::1]:6379"])
def test_a_cluster_is_an_address(load, address):
    registry = load(f'[cluster]\naddress = "{address}"\n{LANES}node = "gpu-1"\n')
    assert registry.cluster == ClusterSpec(address=address)
    assert registry.lane("hf").node == "gpu-1"


def test_the_home_on_the_nodes_is_a_whole_path(load):
    registry = load(f'[cluster]\naddress = "auto"\nhome = "/data/lmdyno"\n{LANES}')
    assert registry.cluster == ClusterSpec(address="auto", home="/data/lmdyno")


def test_without_a_cluster_there_is_none(load):
    registry = load(LANES)
    assert registry.cluster is None
    assert registry.lane("hf").node is None


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (f'cluster = "auto"\n{LANES}', "line 1: [cluster] is not a table", "[cluster]"),
        (f"[cluster]\n{LANES}", "[cluster] has no address", "HOST:6379"),
        (f'[cluster]\naddress = "ray://h:1"\n{LANES}', "line 2: [cluster] address is not the", "auto"),
        (f"[cluster]\naddress = 6379\n{LANES}", "line 2: [cluster] address is not the", "HOST:6379"),
        (f'[cluster]\naddress = "auto"\nhome = "data"\n{LANES}', "line 3: [cluster] home is not", "slash"),
        (f'[cluster]\naddress = "auto"\nport = 1\n{LANES}', "line 3: [cluster] port is not a key", "address"),
        (f'{LANES}node = "gpu-1"\n', "line 6: [lanes.hf] node names a node, but", "Add [cluster]"),
        (
            f'[cluster]\naddress = "auto"\n{LANES}node = "../x"\n',
            "line 8: [lanes.hf] node is not the name",
            "--node-name",
        ),
        (f'[cluster]\naddress = "auto"\n{LANES}node = 3\n', "line 8: [lanes.hf] node is not the name", "ray"),
    ],
)
def test_mistakes_are_told_with_their_line(load, text, message, hint):
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_the_lanes_file_alone_says_where_a_lane_runs(load, settings):
    registry = load(f'[cluster]\naddress = "auto"\n{LANES}node = "gpu-1"\n')
    lane = registry.lane("hf")
    save_lane(settings, replace(lane, settings=replace(lane.settings, start_timeout_s=9.0), node="gpu-2"))
    assert "node" not in changes_file(settings).read_text("utf-8")
    changed = load_lanes(settings, gpu=False).lane("hf")
    assert changed.settings.start_timeout_s == 9.0
    assert changed.node == "gpu-1"


CPUINFO = """processor\t: 0
model name\t: {name}
{key}\t\t: fpu sse2 {flags}

processor\t: 1
{key}\t\t: fpu sse2 {flags} only_here
"""


@pytest.mark.parametrize(
    ("key", "flags", "dtype"),
    [
        ("flags", "avx512f avx512_bf16 amx_bf16 avx512_fp16 f16c", "bfloat16"),
        ("flags", "avx512f avx512_bf16 f16c", "bfloat16"),
        ("flags", "avx2 f16c fma", "float16"),
        ("flags", "avx512f avx512_fp16", "float16"),
        ("flags", "ssse3", "float32"),
        ("Features", "asimd asimdhp bf16", "bfloat16"),
        ("Features", "asimd asimdhp", "float16"),
        ("Features", "asimd", "float32"),
    ],
)
def test_the_dtype_is_what_the_cpu_does_natively(key, flags, dtype):
    features = lanes._of_cpuinfo(CPUINFO.format(name="any", key=key, flags=flags))
    assert "only_here" not in features
    assert native_dtype(features) == dtype


def test_macos_tells_by_sysctl():
    text = "hw.optional.arm.FEAT_BF16: {bf16}\nhw.optional.arm.FEAT_FP16: 1\nhw.optional.arm.x: 0\n"
    assert native_dtype(lanes._of_sysctl(text.format(bf16=1))) == "bfloat16"
    assert native_dtype(lanes._of_sysctl(text.format(bf16=0))) == "float16"


def test_a_cpu_that_nothing_is_known_of_computes_in_float32():
    assert native_dtype(frozenset()) == "float32"


def test_the_default_lane_takes_it(monkeypatch, tmp_path):
    monkeypatch.setattr("core.config.cpu_features", lambda: frozenset({"f16c"}))
    settings = replace(load_settings({"LMDYNO_HOME": str(tmp_path)}), lanes_file=tmp_path / "none.toml")
    registry = load_lanes(settings, gpu=False)
    assert [registry.lane(name).settings.dtype for name in ("hf", "llava-hf", "hf-q4")] == [
        "float16",
        "float16",
        "auto",
    ]


DEMO = '[models.demo]\ncheckpoint = "demo"\n'


@pytest.fixture
def settings(tmp_path):
    base = load_settings({"LMDYNO_HOME": str(tmp_path / "home")})
    return replace(base, lanes_file=tmp_path / "lanes.toml")


@pytest.fixture
def load(settings):
    def load(text: str) -> LaneRegistry:
        settings.lanes_file.write_text(text, "utf-8")
        return load_lanes(settings, gpu=False)

    return load


@pytest.fixture
def mistake(load):
    def mistake(text: str) -> ConfigError:
        with pytest.raises(ConfigError) as caught:
            load(text)
        return caught.value

    return mistake


def test_a_file_that_somebody_named_has_to_be_there(tmp_path):
    settings = load_settings({"LMDYNO_HOME": str(tmp_path), "LMDYNO_LANES": str(tmp_path / "mine.toml")})
    with pytest.raises(ConfigError, match=r"mine\.toml doesn't exist") as caught:
        load_lanes(settings, gpu=False)
    assert caught.value.code == "lanes-file-missing"
    settings.lanes_file.write_text(DEMO + '[lanes.one]\nengine = "transformers"\nmodel = "demo"\n')
    assert [lane.name for lane in load_lanes(settings, gpu=False).lanes] == ["one"]


def test_without_a_file_the_lanes_follow_the_machine(settings, monkeypatch):
    monkeypatch.setattr("core.config.cpu_features", lambda: frozenset({"amx_bf16"}))
    lanes = load_lanes(settings, gpu=False)
    assert [lane.name for lane in lanes.lanes] == ["hf", "hf-q4", "llava-hf"]
    assert lanes.source is None
    assert lanes.lane("hf").settings == EngineSettings(dtype="bfloat16", device="cpu")
    assert lanes.lane("hf-q4").weights is Weights.GGUF

    gpu = load_lanes(settings, gpu=True)
    assert [lane.kind for lane in gpu.lanes] == [
        EngineKind.TRANSFORMERS,
        EngineKind.TURBOMIND,
        EngineKind.AWQ,
        EngineKind.TRANSFORMERS,
        EngineKind.PYTORCH,
    ]
    assert gpu.lane("hf").settings.dtype == "float16"
    demo, vision = demo_model(settings), demo_vision_model(settings)
    assert {lane.model for lane in (*lanes.lanes, *gpu.lanes)} == {demo, vision}
    images = [lane for lane in (*lanes.lanes, *gpu.lanes) if lane.model == vision]
    assert [(lane.name, lane.settings.dtype) for lane in images] == [
        ("llava-hf", "bfloat16"),
        ("llava-hf", "float16"),
        ("llava-pt", "float16"),
    ]


def test_the_shipped_example_loads_and_shows_every_key():
    example = PROJECT_ROOT / "lanes.example.toml"
    registry = load_lanes(replace(load_settings({}), lanes_file=example), gpu=False)
    assert {lane.kind for lane in registry.lanes} == set(EngineKind)
    text = example.read_text("utf-8")
    keys = {field.name for field in fields(EngineSettings)} | {"gguf", "awq", "weights", "vision"}
    assert [key for key in keys if f"{key} = " not in text] == []


def test_every_setting_belongs_to_some_kind():
    taken = frozenset().union(*SETTINGS_OF.values())
    assert taken == {field.name for field in fields(EngineSettings)}
    assert set(SETTINGS_OF) == set(WEIGHTS_OF) == set(EngineKind)


def test_a_lane_takes_its_settings_under_the_engines_own_names(load):
    registry = load(
        DEMO + '[lanes.tm]\nengine = "turbomind"\nmodel = "demo"\n'
        "tp = 2\ndevices = [0, 3]\nquant_policy = 8\ncache_max_entry_count = 0.25\n"
        "session_len = 8192\nmax_batch_size = 1\nenable_prefix_caching = true\n"
    )
    assert registry.lane("tm").settings == EngineSettings(
        tp=2,
        devices=(0, 3),
        quant_policy=8,
        cache_max_entry_count=0.25,
        session_len=8192,
        max_batch_size=1,
        enable_prefix_caching=True,
    )


def test_awq_lanes_load_awq_weights_from_the_models_folder(load, settings):
    registry = load('[models.m]\ncheckpoint = "org/m"\n[lanes.a]\nengine = "awq"\nmodel = "m"\n')
    lane = registry.lane("a")
    assert lane.weights is Weights.AWQ
    assert lane.model.path(lane.weights) == str(settings.models_dir / "m-awq")


def test_a_checkpoint_is_a_path_a_model_of_ours_or_a_hub_id(load, settings, tmp_path):
    (settings.models_dir / "converted").mkdir(parents=True)
    (tmp_path / "beside").mkdir()
    registry = load(
        '[models.a]\ncheckpoint = "./not/there/yet"\n[models.b]\ncheckpoint = "converted"\n'
        '[models.c]\ncheckpoint = "org/name"\n[models.d]\ncheckpoint = "beside"\ngguf = "x.gguf"\n'
        '[lanes.hf]\nengine = "transformers"\nmodel = "a"\n'
    )
    assert [model.checkpoint for model in registry.models] == [
        str(tmp_path / "not/there/yet"),
        str(settings.models_dir / "converted"),
        "org/name",
        str(tmp_path / "beside"),
    ]
    assert registry.model("d").gguf == str(tmp_path / "x.gguf")


def test_the_interpreter_of_another_environment_stays_a_link(load, tmp_path):
    (tmp_path / "python").symlink_to("/bin/sh")
    registry = load(DEMO + '[lanes.hf]\nengine = "transformers"\nmodel = "demo"\npython = "./python"\n')
    assert registry.lane("hf").settings.python == str(tmp_path / "python")


def test_an_endpoint_is_a_url_with_the_name_of_a_key(load):
    registry = load(
        '[lanes.lab]\nengine = "endpoint"\nurl = "https://lab:8000/v1/"\nmodel = "m"\n'
        'dialect = "lmdeploy"\napi_key = "LAB_KEY"\n'
    )
    assert registry.lane("lab").endpoint == EndpointSpec(
        url="https://lab:8000/v1", model="m", dialect=Dialect.LMDEPLOY, api_key_name="LAB_KEY"
    )
    assert not registry.lane("lab").is_local


def test_whether_an_endpoint_takes_images_is_not_known_unless_somebody_says(load):
    registry = load("\n".join(EP.replace("lab]", f"{name}]") + line for name, line in ENDPOINTS.items()))
    assert [lane.endpoint.vision for lane in registry.lanes] == [None, True, False]


def test_the_demo_vision_model_can_be_named(load, settings):
    registry = load('[models.v]\ncheckpoint = "demo-vision"\n[lanes.v]\nengine = "pytorch"\nmodel = "v"\n')
    assert registry.model("v") == replace(demo_vision_model(settings), name="v")


def test_unknown_names_list_those_there_are(settings):
    registry = load_lanes(settings, gpu=False)
    with pytest.raises(ConfigError, match='no lane "hg"') as caught:
        registry.lane("hg")
    assert caught.value.hint == "Available: hf, hf-q4, llava-hf."
    with pytest.raises(ConfigError, match='no model "x"') as caught:
        registry.model("x")
    assert caught.value.hint == "Available: smollm2-135m-instruct, scenes-llava."


LANE = DEMO + '[lanes.tm]\nengine = "turbomind"\nmodel = "demo"\n'
HF = DEMO + '[lanes.hf]\nengine = "transformers"\nmodel = "demo"\n'
EP = '[lanes.lab]\nengine = "endpoint"\nurl = "http://lab/v1"\n'
ENDPOINTS = {"a": "", "b": "vision = true", "c": "vision = false"}


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (LANE + "session_len = 0\n", "line 6: [lanes.tm] session_len is 0", "a whole number from 1"),
        (LANE + "session_len = true\n", "line 6: [lanes.tm] session_len is true", "whole number"),
        (LANE + "cache_max_entry_count = 1\n", "line 6: [lanes.tm] cache_max_entry_count", "less than 1"),
        (LANE + "cache_max_entry_count = 0.0\n", "line 6", "greater than 0"),
        (LANE + "quant_policy = 2\n", "line 6: [lanes.tm] quant_policy is 2", "Allowed: 0, 4, 8."),
        (LANE + 'dtype = "float32"\n', 'dtype is "float32"', 'Allowed: "auto", "float16", "bfloat16".'),
        (LANE + "tp = 0\n", "line 6: [lanes.tm] tp is 0", "from 1"),
        (
            LANE + "tp = 4\ndevices = [0, 1]\n",
            "line 6: [lanes.tm] tp is 4",
            "at most 2, the number",
        ),
        (LANE + "devices = [0, 0]\n", "line 6: [lanes.tm] devices", "different GPU indices"),
        (LANE + "devices = []\n", "line 6: [lanes.tm] devices", "[0, 1]"),
        (LANE + 'device = "cuda"\n', "line 6: [lanes.tm] device is not a key", "devices"),
        (LANE + "sesion_len = 4096\n", "line 6: [lanes.tm] sesion_len", 'Did you mean "session_len"?'),
        (LANE + 'weights = "awq"\n', 'line 6: [lanes.tm] weights is "awq"', '"checkpoint".'),
        (
            LANE + "tp = 2\nreplicas = 2\ndevices = [0, 1]\n",
            "line 7: [lanes.tm] replicas is 2",
            "as many as make 2 devices",
        ),
        (HF + "tp = 2\n", 'tp is not a key of a lane with engine = "transformers"', "continuous_batching"),
        (HF + 'device = "tpu"\n', 'line 6: [lanes.hf] device is "tpu"', '"cpu", "cuda"'),
        (HF + "start_timeout_s = 0\n", "line 6: [lanes.hf] start_timeout_s is 0", "seconds from 1"),
        (HF + 'trust_remote_code = "yes"\n', 'trust_remote_code is "yes"', "true or false"),
        (HF + "python = 3\n", "line 6: [lanes.hf] python is 3", "interpreter"),
        (HF.replace("transformers", "vllm"), 'line 4: [lanes.hf] engine is "vllm"', '"endpoint"'),
        (
            HF.replace('"demo"\n[', '"demo"\n\n[').replace('model = "demo"', 'model = "dem"'),
            "line 6",
            '"demo"',
        ),
        (HF.replace('model = "demo"\n', ""), "line 3: [lanes.hf] has no model", '"demo"'),
        (DEMO + "[lanes.hf]\n", "line 3: [lanes.hf] has no engine", '"transformers"'),
        (
            DEMO + '[lanes.HF]\nengine = "awq"\n',
            "line 3: [lanes.HF] is not a valid lane name",
            "lowercase letters",
        ),
        (DEMO + "[lanes]\nhf = 3\n", "line 4: [lanes.hf] is not a table", "[lanes.hf]"),
        (DEMO, "[lanes] has no lane", "[lanes.NAME]"),
        ("", "[lanes] has no lane", "[lanes.NAME]"),
        ("lanes = 3\n", "line 1: [lanes] has no lane", "[lanes.NAME]"),
        ("[[lanes]]\n", "line 1: [lanes] has no lane", "[lanes.NAME]"),
        ("[lane.hf]\n", "line 1: [lane] is not a key", 'Did you mean "lanes"?'),
        ("[models]\nm = 3\n", "line 2: [models.m] is not a table", "[models.m]"),
        ("[models.m]\n", "line 1: [models.m] has no checkpoint", '"demo"'),
        ('[models.m]\ncheckpoint = ""\n', "line 2: [models.m] checkpoint is not text", "quotes"),
        ('[models.m]\ncheckpoint = "nowhere"\n', "line 2: [models.m] checkpoint", "models list"),
        ('[models.m]\nchekpoint = "a/b"\n', "line 2: [models.m] chekpoint", '"checkpoint"?'),
        ('[models.m]\ncheckpoint = "a/b"\ngguf = "m.bin"\n', "line 3: [models.m] gguf", ".gguf"),
        (DEMO + 'awq = "./x"\n', "line 3: [models.demo] awq", "Remove the key"),
        (
            HF.replace('"demo"\n[', '"a/b"\n[') + 'weights = "gguf"\n',
            'line 6: [lanes.hf] weights is "gguf"',
            "Add gguf",
        ),
        (EP + 'dialect = "openai"\n', 'line 4: [lanes.lab] dialect is "openai"', '"generic"'),
        (EP + 'vision = "yes"\n', 'line 4: [lanes.lab] vision is "yes"', "true or false"),
        (LANE + "vision = true\n", "line 6: [lanes.tm] vision is not a key", "devices"),
        (EP + "session_len = 5\n", "line 4: [lanes.lab] session_len is not a key", "dialect"),
        (EP.replace("http://lab/v1", "lab:8000"), "line 3: [lanes.lab] url is not", "http://HOST"),
        (EP.replace("http://lab", "ftp://lab"), "line 3: [lanes.lab] url is not", "http://HOST"),
        (EP.replace("lab/v1", "lab:port/v1"), "line 3: [lanes.lab] url is not", "http://HOST"),
        ('[lanes.lab]\nengine = "endpoint"\n', "line 1: [lanes.lab] has no url", "http://HOST"),
    ],
)
def test_a_mistake_names_line_key_and_what_is_allowed(mistake, text, message, hint):
    error = mistake(text)
    assert message in error.message
    assert error.message.startswith("lanes.toml")
    assert hint in error.hint


@pytest.mark.parametrize("key", ["sk-1234567890abcdef", "hf_AbCdEf", "0123456789abcdef", "lower"])
def test_a_key_itself_is_refused_and_not_repeated(mistake, key):
    error = mistake(EP + f'api_key = "{key}"\n')
    assert "line 4: [lanes.lab] api_key is not the name of a secret" in error.message
    assert "Use the name" in error.hint
    assert key not in f"{error.message} {error.hint}"


@pytest.mark.parametrize("url", ["http://me:hush@lab/v1", "http://lab/v1?key=hush"])
def test_a_url_with_a_secret_is_refused_and_not_repeated(mistake, url):
    error = mistake(EP.replace("http://lab/v1", url))
    assert "line 3" in error.message
    assert "hush" not in f"{error.message} {error.hint}"
