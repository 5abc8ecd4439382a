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

PARSE_LMDEPLOY = """
import json, sys
from lmdeploy.cli.cli import CLI
from lmdeploy.cli.lite import SubCliLite
from lmdeploy.cli.serve import SubCliServe
CLI.add_parsers(); SubCliServe.add_parsers(); SubCliLite.add_parsers()
for line in sys.stdin:
    known = vars(CLI.parser.parse_args(json.loads(line)))
    print(json.dumps({k: v for k, v in known.items() if isinstance(v, str | int | float | bool | list)}))
"""
LMDEPLOY_PARSER = """
import json, sys
from lmdeploy.cli.cli import CLI
from lmdeploy.cli.serve import SubCliServe
CLI.add_parsers()
SubCliServe.add_parsers()
parsed = [CLI.parser.parse_args(["serve", "api_server", *argv]) for argv in json.load(sys.stdin)]
print(json.dumps([vars(options) for options in parsed], default=str))
"""


def test_lmdeploy_parses_its_commands_with_the_lanes_settings():
    lines = [
        words(recipe)
        for lane in (TURBOMIND, AWQ, PYTORCH)
        for recipe in recipes(lane, sampling=Sampling())
        if recipe.code.removeprefix("CUDA_VISIBLE_DEVICES=0,1 ").startswith("lmdeploy")
    ]
    assert len(lines) == 7
    done = subprocess.run(
        [sys.executable, "-c", PARSE_LMDEPLOY],
        input="\n".join(json.dumps(line[1:]) for line in lines),
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    parsed = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(parsed) == len(lines)
    for line, options in zip(lines, parsed, strict=True):
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


def test_every_flag_reaches_lmdeploys_own_parser(tmp_path):
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
    answer = subprocess.run(
        [sys.executable, "-c", LMDEPLOY_PARSER],
        input=json.dumps([command(lane, GPU).argv[2:] for lane in lanes]),
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    for lane, parsed in zip(lanes, json.loads(answer.stdout.splitlines()[-1]), strict=True):
        assert {name: parsed[name] for name in settings} == settings
        assert parsed["backend"] == ("pytorch" if lane.kind is EngineKind.PYTORCH else "turbomind")
        assert parsed["model_format"] == ("awq" if lane.kind is EngineKind.AWQ else None)
        assert parsed["server_name"] == "127.0.0.1"
        assert parsed["server_port"] == 4711
        assert parsed["model_name"] == lane.name
        assert parsed["generation_config"] == "lmdeploy"
