"""The files in examples/ do what their comments say."""

from dataclasses import replace

import pytest

from core.bench.plan import PromptKind, Workload
from core.bench.prompt_files import prompt_kind
from core.bench.workload import listed_prompts
from core.config import load_lanes
from core.domain.specs import EngineKind
from core.settings import PROJECT_ROOT, load_settings

EXAMPLES = PROJECT_ROOT / "examples"
LANES = {
    "lanes-ollama": {
        "hf": EngineKind.TRANSFORMERS,
        "ollama-small": EngineKind.ENDPOINT,
        "ollama-large": EngineKind.ENDPOINT,
    },
    "lanes-vllm": {"turbomind": EngineKind.TURBOMIND, "vllm": EngineKind.ENDPOINT},
    "lanes-two-gpus": {
        "fp16": EngineKind.TURBOMIND,
        "w4a16": EngineKind.AWQ,
        "tp2": EngineKind.TURBOMIND,
        "x2": EngineKind.TURBOMIND,
    },
}


def lanes(name, tmp_path):
    settings = replace(load_settings({}), home=tmp_path, lanes_file=EXAMPLES / f"{name}.toml")
    return {lane.name: lane for lane in load_lanes(settings, gpu=True).lanes}


@pytest.mark.parametrize(("name", "kinds"), LANES.items(), ids=LANES)
def test_lanes_files_load(name, kinds, tmp_path):
    assert {lane.name: lane.kind for lane in lanes(name, tmp_path).values()} == kinds


def test_the_vllm_lane_names_a_key_that_may_be_an_environment_variable(tmp_path):
    endpoint = lanes("lanes-vllm", tmp_path)["vllm"].endpoint
    assert endpoint.api_key_name == "LMDYNO_KEY_VLLM"


def test_two_gpus_are_used_one_by_one_and_together(tmp_path):
    found = lanes("lanes-two-gpus", tmp_path)
    assert [found[name].settings.devices for name in ("fp16", "w4a16", "tp2")] == [(0,), (1,), (0, 1)]
    assert found["tp2"].settings.tp == 2
    assert (found["x2"].settings.replicas, found["x2"].settings.gpu_count) == (2, 2)
    assert len({lane.model for lane in found.values()}) == 1


def test_the_sharegpt_file_asks_ten_questions():
    file = EXAMPLES / "prompts-sharegpt.json"
    assert prompt_kind(file.name) is PromptKind.SHAREGPT
    prompts = listed_prompts(Workload(prompts=PromptKind.SHAREGPT, path=str(file)))
    asked = [prompts.messages(number) for number in range(11)]
    assert len(set(asked)) == 10
    assert asked[10] == asked[0]


def test_every_example_is_tested_and_listed():
    files = {file.name for file in EXAMPLES.iterdir()} - {"README.md"}
    assert files == {f"{name}.toml" for name in LANES} | {"prompts-sharegpt.json"}
    readme = (EXAMPLES / "README.md").read_text("utf-8")
    assert all(f"]({name})" in readme for name in files)
