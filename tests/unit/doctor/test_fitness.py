import sys

import pytest

from core.config import DEMO_NAME, VISION_DEMO_NAME
from core.doctor.fitness import can_run
from core.domain.specs import EndpointSpec, EngineKind, EngineSettings, LaneSpec, ModelSpec, Weights
from tests.vision_checkpoints import LLAVA, write_checkpoint

LINUX = ("linux", "x86_64")


@pytest.fixture
def model(tmp_path):
    checkpoint = tmp_path / "model"
    checkpoint.mkdir()
    gguf = tmp_path / "model.gguf"
    gguf.touch()
    return ModelSpec(name="m", checkpoint=str(checkpoint), gguf=str(gguf), awq=str(tmp_path / "m-awq"))


def check(lane, *, gpu=False, missing=(), here=LINUX):
    return can_run(lane, gpu=gpu, installed=lambda name: name not in missing, here=lambda: here)


def lane(kind, model, *, weights=Weights.CHECKPOINT, **settings):
    return LaneSpec(name="x", kind=kind, model=model, weights=weights, settings=EngineSettings(**settings))


def test_an_endpoint_needs_nothing_of_this_machine():
    endpoint = LaneSpec(name="far", kind=EngineKind.ENDPOINT, endpoint=EndpointSpec(url="http://h/v1"))
    assert check(endpoint, missing=("torch", "lmdeploy"), here=("darwin", "arm64")) is None


def test_transformers_runs_anywhere_it_is_installed(model):
    assert check(lane(EngineKind.TRANSFORMERS, model), here=("darwin", "arm64")) is None
    reason = check(lane(EngineKind.TRANSFORMERS, model), missing=("fastapi",))
    assert reason.code == "engine-not-installed"
    assert "fastapi" in reason.message


def test_a_packed_gguf_needs_its_reader(model):
    packed = lane(EngineKind.TRANSFORMERS, model, weights=Weights.GGUF)
    assert check(packed) is None
    assert "gguf" in check(packed, missing=("gguf",)).message
    assert check(lane(EngineKind.TRANSFORMERS, model), missing=("gguf",)) is None


@pytest.mark.parametrize("kind", [EngineKind.TURBOMIND, EngineKind.PYTORCH])
def test_lmdeploy_needs_linux_a_gpu_and_its_package(model, kind):
    assert check(lane(kind, model), gpu=True) is None
    assert check(lane(kind, model), gpu=True, here=("darwin", "arm64")).code == "platform-not-served"
    assert check(lane(kind, model)).code == "no-gpu"
    assert check(lane(kind, model), gpu=True, missing=("lmdeploy",)).code == "engine-not-installed"


def test_a_lane_set_to_a_gpu_does_not_run_without_one(model):
    reason = check(lane(EngineKind.TRANSFORMERS, model, device="cuda"))
    assert reason.code == "no-gpu"
    assert 'device = "cpu"' in reason.hint
    assert check(lane(EngineKind.TRANSFORMERS, model, devices=(1,))).code == "no-gpu"


def test_another_python_is_only_looked_for(model):
    own = lane(EngineKind.TURBOMIND, model, python="/nowhere/python")
    assert check(own, gpu=True).code == "engine-python-missing"
    there = lane(EngineKind.TURBOMIND, model, python=sys.executable)
    assert check(there, gpu=True) is None


def test_weights_that_are_not_there_come_with_the_way_to_make_them(model, tmp_path):
    awq = lane(EngineKind.AWQ, model, weights=Weights.AWQ)
    reason = check(awq, gpu=True)
    assert (reason.code, reason.hint) == ("weights-missing", "Quantise the model: `lmdyno quantize m`")
    (tmp_path / "m-awq").mkdir()
    assert check(awq, gpu=True) is None

    demo = ModelSpec(name="demo", checkpoint=str(tmp_path / DEMO_NAME))
    assert "models demo" in check(lane(EngineKind.TRANSFORMERS, demo)).hint


def test_the_demo_vision_model_says_how_it_is_prepared(tmp_path):
    demo = ModelSpec(name="v", checkpoint=str(tmp_path / VISION_DEMO_NAME))
    assert "models demo" in check(lane(EngineKind.TRANSFORMERS, demo)).hint


def test_a_lane_whose_engine_does_not_serve_the_vision_model_does_not_start(tmp_path):
    model = ModelSpec(name="llava", checkpoint=write_checkpoint(tmp_path / "llava", LLAVA))
    reason = check(lane(EngineKind.TURBOMIND, model), gpu=True)
    assert reason.code == "engine-without-vision"
    assert "TurboMind" in reason.message
    assert '"pytorch"' in reason.hint
    assert check(lane(EngineKind.PYTORCH, model), gpu=True) is None


def test_a_hub_id_is_believed(tmp_path):
    hub = ModelSpec(name="q", checkpoint="Qwen/Qwen2.5-0.5B-Instruct")
    assert check(lane(EngineKind.TRANSFORMERS, hub)) is None


def test_a_form_that_the_model_has_not_is_named():
    plain = ModelSpec(name="q", checkpoint="Qwen/Qwen2.5-0.5B-Instruct")
    reason = check(lane(EngineKind.TRANSFORMERS, plain, weights=Weights.GGUF))
    assert reason.code == "no-such-weights"
    assert check(lane(EngineKind.TRANSFORMERS, None)).code == "no-model"
