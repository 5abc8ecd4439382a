"""Real processes instead of real engines: launch rows that start `tests/engines/fake_engine.py`."""

import json
import sys
import time
from pathlib import Path

import psutil

from core.domain.specs import Dialect, EngineKind, EngineSettings, LaneSpec, ModelSpec, Weights
from core.engines.launch.table import Command, LaunchRow
from core.settings import Settings

FAKE_ENGINE = Path(__file__).parents[2] / "engines" / "fake_engine.py"


def settings_in(folder: Path, *, end_engines_after: str = "never") -> Settings:
    """A home whose engines have no guardian unless a test wants one."""
    return Settings(
        home=folder,
        lanes_file=folder / "lanes.toml",
        database_url="sqlite://",
        end_engines_after=end_engines_after,
    )


def model_in(folder: Path) -> ModelSpec:
    """A checkpoint folder that passes the checks before a start: a config and one tensor of weights."""
    path = folder / "model"
    path.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": 1,
        "hidden_size": 64,
        "num_attention_heads": 1,
        "intermediate_size": 128,
        "vocab_size": 16,
    }
    (path / "config.json").write_text(json.dumps(config))
    header = json.dumps({"w": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    (path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    return ModelSpec(name="stand-in", checkpoint=str(path))


def lane_in(
    folder: Path, name: str = "hf", kind: EngineKind = EngineKind.TRANSFORMERS, **settings
) -> LaneSpec:
    return LaneSpec(
        name=name,
        kind=kind,
        model=model_in(folder),
        weights=Weights.CHECKPOINT,
        settings=EngineSettings(**{"start_timeout_s": 30.0, **settings}),
    )


def row(*options: str, needs_gpu: bool = False) -> LaunchRow:
    """An engine that behaves as the options of `fake_engine.py` say."""

    def command(lane, place, port):
        address = ("--host", place.host, "--port", str(port))
        argv = (sys.executable, str(FAKE_ENGINE), *address, "--model", lane.name, *options)
        environment = {"CUDA_VISIBLE_DEVICES": place.visible_devices}
        return Command(argv, environment, served_model=lane.name)

    return LaunchRow(
        packages=("psutil",),
        dialect=Dialect.TRANSFORMERS,
        command=command,
        needs_gpu=needs_gpu,
        overhead_bytes=2**30,
    )


def rows(*options: str, **more):
    return {EngineKind.TRANSFORMERS: row(*options), **more}


def gone(pid: int) -> bool:
    """Whether the process has ended; one that its parent has not taken leave of yet has."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_for(condition, timeout_s: float = 15.0):
    """The condition's first true value; fails when there is none in time."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return value
