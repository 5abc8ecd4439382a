"""LMDeploy's own parsers understand what LMDyno tells it."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from core.domain.conversation import Sampling
from core.domain.specs import EngineKind, Weights
from core.engines.recipes import recipes
from tests.unit.engines.engine_stand_ins import lane_in
from tests.unit.engines.launch.test_engines_launch_table import GPU, command
from tests.unit.engines.test_engines_recipes import AWQ, PYTORCH, TURBOMIND, words

pytest.importorskip("lmdeploy", reason="LMDeploy has wheels for Linux on x86-64 only")

PARSER = """
import json, sys
from lmdeploy.cli.cli import CLI
from lmdeploy.cli.lite import SubCliLite
from lmdeploy.cli.serve import SubCliServe
CLI.add_parsers(); SubCliServe.add_parsers(); SubCliLite.add_parsers()
for line in sys.stdin:
    print("@" + json.dumps(vars(CLI.parser.parse_args(json.loads(line))), default=str), flush=True)
"""


@pytest.fixture(scope="module")
def parse():
    """parse(arguments) → what LMDeploy understands, as it would from its command line."""
    with subprocess.Popen(
        [sys.executable, "-c", PARSER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:

        def parsed(arguments):
            child.stdin.write(json.dumps(arguments) + "\n")
            child.stdin.flush()
            answer = next((line for line in child.stdout if line.startswith("@")), None)
            assert answer, f"LMDeploy doesn't understand {arguments}"
            return json.loads(answer[1:])

        yield parsed
        child.stdin.close()


def test_lmdeploy_parses_its_commands_with_the_lanes_settings(parse):
    lines = [
        words(recipe)
        for lane in (TURBOMIND, AWQ, PYTORCH)
        for recipe in recipes(lane, sampling=Sampling())
        if recipe.code.removeprefix("CUDA_VISIBLE_DEVICES=0,1 ").startswith("lmdeploy")
    ]
    assert len(lines) == 7
    for line in lines:
        options = parse(line[1:])
        if line[1] == "lite":
            assert (options["model"], options["work_dir"]) == ("/models/m", "/models/m-awq")
            continue
        assert options["session_len"] == 2048
        assert options["cache_max_entry_count"] == 0.25
        assert options["quant_policy"] == 8
        assert options["tp"] == 2
        assert options["dtype"] == "float16"
        assert options["enable_prefix_caching"] is True
        if line[1] == "serve":
            assert options["max_batch_size"] == 16
            assert options["generation_config"] == "lmdeploy"
            assert options["server_name"] == "127.0.0.1"


def test_every_flag_reaches_lmdeploys_own_parser(parse, tmp_path):
    settings = {
        "dtype": "bfloat16",
        "session_len": 8192,
        "max_batch_size": 32,
        "cache_max_entry_count": 0.25,
        "quant_policy": 8,
        "tp": 2,
        "enable_prefix_caching": True,
        "trust_remote_code": True,
    }
    kinds = (EngineKind.TURBOMIND, EngineKind.AWQ, EngineKind.PYTORCH)
    lanes = [lane_in(tmp_path, kind.value, kind, **settings) for kind in kinds]
    lanes[1] = replace(lanes[1], weights=Weights.AWQ, model=replace(lanes[1].model, awq="/m/awq"))
    for lane in lanes:
        parsed = parse(["serve", "api_server", *command(lane, GPU).argv[2:]])
        assert {name: parsed[name] for name in settings} == settings
        assert parsed["backend"] == ("pytorch" if lane.kind is EngineKind.PYTORCH else "turbomind")
        assert parsed["model_format"] == ("awq" if lane.kind is EngineKind.AWQ else None)
        assert parsed["server_name"] == "127.0.0.1"
        assert parsed["server_port"] == 4711
        assert parsed["model_name"] == lane.name
        assert parsed["generation_config"] == "lmdeploy"
