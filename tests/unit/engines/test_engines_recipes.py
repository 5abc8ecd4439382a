"""Every command is parsed by the tool it names, every program compiles; both say what the lane is set to."""

import base64
import json
import shlex
import subprocess
from dataclasses import replace

import pytest

from core.domain.conversation import Sampling
from core.domain.specs import EndpointSpec, EngineKind, EngineSettings, LaneSpec, ModelSpec, Weights
from core.engines.recipes import Recipe, recipes
from core.models.model_folders import Provenance
from core.models.vision import CHAT_TEMPLATE_FILE
from tests.vision_checkpoints import LLAVA, QWEN, write_checkpoint

MODEL = ModelSpec(name="m", checkpoint="/models/m", gguf="/models/m/m.gguf", awq="/models/m-awq")
SETTINGS = EngineSettings(
    dtype="float16",
    session_len=2048,
    max_batch_size=16,
    cache_max_entry_count=0.25,
    quant_policy=8,
    tp=2,
    enable_prefix_caching=True,
    devices=(0, 1),
)
TURBOMIND = LaneSpec(name="turbomind", kind=EngineKind.TURBOMIND, model=MODEL, settings=SETTINGS)
AWQ = LaneSpec(name="awq", kind=EngineKind.AWQ, model=MODEL, weights=Weights.AWQ, settings=SETTINGS)
PYTORCH = LaneSpec(name="pytorch", kind=EngineKind.PYTORCH, model=MODEL, settings=SETTINGS)
HF = LaneSpec(
    name="hf",
    kind=EngineKind.TRANSFORMERS,
    model=MODEL,
    settings=EngineSettings(device="cpu", dtype="bfloat16", continuous_batching=True),
)
HF_Q4 = LaneSpec(name="hf-q4", kind=EngineKind.TRANSFORMERS, model=MODEL, weights=Weights.GGUF)
REMOTE = LaneSpec(
    name="lab",
    kind=EngineKind.ENDPOINT,
    endpoint=EndpointSpec(url="http://lab:23333/v1", model="qwen", api_key_name="LAB_KEY"),
)
ALL = [TURBOMIND, AWQ, PYTORCH, HF, HF_Q4, REMOTE]


PROVENANCE = Provenance(
    tool="t",
    source="/models/m",
    source_config_sha256="0",
    calibration="own-answers",
    calibration_sha256=None,
    samples=64,
    seqlen=512,
    search_scale=False,
    batch_size=1,
    dtype="float16",
    bits=4,
    group_size=128,
    versions={},
    device="cpu",
    started_at="2026-01-01T00:00:00Z",
    duration_s=1.0,
    source_bytes=1,
    result_bytes=1,
)


def by_title(lane, sampling=None) -> dict[str, Recipe]:
    return {recipe.title: recipe for recipe in recipes(lane, sampling=sampling or Sampling())}


def words(recipe: Recipe) -> list[str]:
    return [word for word in shlex.split(recipe.code) if not word.startswith("CUDA_VISIBLE_DEVICES=")]


@pytest.mark.parametrize("lane", ALL, ids=lambda lane: lane.name)
@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(temperature=0.7, top_k=40, seed=3, repetition_penalty=1.1, fixed_length=True)],
    ids=["greedy", "sampled"],
)
def test_every_program_compiles_and_every_command_splits(lane, sampling):
    found = recipes(lane, sampling=sampling)
    assert found
    for recipe in found:
        if recipe.language == "python":
            compile(recipe.code, recipe.title, "exec")
        else:
            assert shlex.split(recipe.code)


def test_pinned_devices_are_part_of_the_command():
    assert by_title(TURBOMIND)["API server"].code.startswith("CUDA_VISIBLE_DEVICES=0,1 lmdeploy serve")


def test_replicas_register_at_the_proxy_that_listens_at_the_lanes_port():
    settings = replace(SETTINGS, tp=1, replicas=2, devices=(3, 5))
    lines = by_title(replace(TURBOMIND, settings=settings))["API server"].code.splitlines()
    proxy, first, second = (shlex.split(line) for line in lines)
    assert proxy[:3] == ["lmdeploy", "serve", "proxy"]
    assert proxy[proxy.index("--server-port") + 1] == "23333"
    assert [server[0] for server in (first, second)] == ["CUDA_VISIBLE_DEVICES=3", "CUDA_VISIBLE_DEVICES=5"]
    ports = [server[server.index("--server-port") + 1] for server in (first, second)]
    assert ports == ["23334", "23335"]
    assert all(server[server.index("--proxy-url") + 1].endswith(":23333") for server in (first, second))
    assert all(line.endswith(' --api-keys "$LMDYNO_API_KEY" &') for line in lines)


def test_the_awq_lane_names_its_format_and_how_it_was_made():
    found = by_title(AWQ)
    assert "--model-format awq" in found["API server"].code
    assert "model_format='awq'" in found["Python pipeline, timed"].code.replace('"', "'")
    assert "auto_awq /models/m " in found["How the W4A16 weights were made"].code


@pytest.mark.parametrize(
    ("calibration", "samples", "command"),
    [
        ("none", 0, "lmdeploy lite auto_awq /models/m --work-dir {out} --w-bits 4 --calib-samples 0"),
        (
            "wikitext2",
            128,
            "lmdeploy lite auto_awq /models/m --work-dir {out} --w-bits 4 --calib-dataset wikitext2 "
            "--calib-samples 128 --calib-seqlen 512",
        ),
        (
            "notes.txt",
            16,
            "lmdyno quantize m --calibration notes.txt --samples 16 --seqlen 512 --out {out}",
        ),
    ],
)
def test_the_note_beside_the_weights_says_how_they_were_made(tmp_path, calibration, samples, command):
    replace(PROVENANCE, calibration=calibration, samples=samples).write(tmp_path)
    lane = replace(AWQ, model=replace(MODEL, awq=str(tmp_path)))
    made = by_title(lane)["How the W4A16 weights were made"].code
    assert made == command.format(out=tmp_path)


def test_another_rounding_than_lmdeploys_is_in_the_command(tmp_path):
    replace(PROVENANCE, calibration="own-answers", search_scale=True, rounding="compensated").write(tmp_path)
    lane = replace(AWQ, model=replace(MODEL, awq=str(tmp_path)))

    assert by_title(lane)["How the W4A16 weights were made"].code == (
        "lmdyno quantize m --calibration own-answers --samples 64 --seqlen 512 --search-scale "
        f"--rounding compensated --out {tmp_path}"
    )


def test_the_pytorch_lane_never_says_turbomind():
    assert not any("turbomind" in recipe.code.lower() for recipe in recipes(PYTORCH, sampling=Sampling()))


def test_a_key_is_named_and_never_shown():
    found = by_title(REMOTE)
    assert "$LAB_KEY" in found["curl"].code
    assert 'os.environ["LAB_KEY"]' in found["OpenAI client, timed"].code


def test_a_running_servers_own_model_id_is_used():
    (curl, *_) = recipes(REMOTE, sampling=Sampling(), served_model="internlm2")
    assert '"model": "internlm2"' in curl.code


@pytest.fixture
def images(tmp_path) -> list[LaneSpec]:
    """Lanes for images of every kind."""
    llava = ModelSpec(name="llava", checkpoint=write_checkpoint(tmp_path / "llava", LLAVA))
    own = ModelSpec(
        name="own", checkpoint=write_checkpoint(tmp_path / "own", LLAVA, {CHAT_TEMPLATE_FILE: {}})
    )
    qwen = ModelSpec(name="qwen", checkpoint=write_checkpoint(tmp_path / "qwen", QWEN))
    assert REMOTE.endpoint
    return [
        replace(PYTORCH, model=llava),
        replace(PYTORCH, name="own", model=own),
        replace(TURBOMIND, model=qwen),
        replace(HF, model=llava),
        replace(REMOTE, endpoint=replace(REMOTE.endpoint, vision=True)),
    ]


def test_lanes_for_images_ask_about_an_image(images):
    for lane in images:
        for recipe in recipes(lane, sampling=Sampling(temperature=0.7)):
            if recipe.language == "python":
                compile(recipe.code, recipe.title, "exec")
                assert "What is in the image?" in recipe.code
                assert "AutoModelForCausalLM" not in recipe.code
            assert "file://" not in recipe.code


def test_llavas_chat_template_is_part_of_every_way(images):
    found = by_title(images[0])
    assert "--chat-template llava-v1" in found["API server"].code
    assert "--chat-template llava-v1" in found["Chat in a terminal"].code
    assert "ChatTemplateConfig('llava-v1')" in found["Python pipeline, timed"].code
    assert "ChatTemplateConfig.from_json('" in by_title(images[1])["Python pipeline, timed"].code
    qwen = "".join(recipe.code for recipe in recipes(images[2], sampling=Sampling()))
    assert "--chat-template" not in qwen
    assert "ChatTemplateConfig" not in qwen


def test_the_curl_recipe_sends_the_image_itself(images, tmp_path):
    png = b"\x89PNG" + bytes(range(256)) * 4
    (tmp_path / "image.png").write_bytes(png)
    code = by_title(images[0])["curl"].code
    shown = subprocess.run(
        ["bash", "-c", "curl() { cat; }; " + code],
        cwd=tmp_path, capture_output=True, text=True, timeout=20, check=True,
    )  # fmt: skip
    image, text = json.loads(shown.stdout)["messages"][0]["content"]
    sent = image["image_url"]["url"].removeprefix("data:image/png;base64,")
    assert base64.b64decode(sent) == png
    assert text == {"type": "text", "text": "What is in the image?"}


def test_the_gguf_program_loads_the_packed_file():
    program = by_title(HF_Q4)["transformers, timed"].code
    assert "gguf_file='m.gguf'" in program.replace('"', "'")
    assert '"API server"' not in by_title(HF_Q4)
