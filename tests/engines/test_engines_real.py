"""`transformers serve` itself, on the CPU, over the demo weights of this LMDyno home."""

import json
import urllib.request
from dataclasses import replace

import pytest

from core.config import demo_model
from core.domain.specs import EngineKind, EngineSettings, LaneSpec, Weights
from core.engines.manager import EngineManager
from core.engines.resolve import find_endpoint
from core.models.demo_models import is_text_prepared
from core.settings import load_settings
from tests.unit.engines.engine_stand_ins import gone

SETTINGS = load_settings()
LANES = (
    LaneSpec(
        name="hf",
        kind=EngineKind.TRANSFORMERS,
        model=demo_model(SETTINGS),
        settings=EngineSettings(dtype="bfloat16", device="cpu"),
    ),
    LaneSpec(
        name="hf-q4",
        kind=EngineKind.TRANSFORMERS,
        model=demo_model(SETTINGS),
        weights=Weights.GGUF,
        settings=EngineSettings(device="cpu"),
    ),
)


@pytest.mark.skipif(not is_text_prepared(SETTINGS), reason="`lmdyno models demo` has not run")
@pytest.mark.parametrize("lane", LANES, ids=lambda lane: lane.name)
def test_real_engine_starts_answers_and_ends(lane, tmp_path):
    home = replace(SETTINGS, home=tmp_path)
    manager = EngineManager(home, [lane])
    try:
        manager.ensure(lane.name)
        stages = set()
        status = manager.wait_until_healthy(lane.name, 500, lambda now: stages.add(now.stage))
        endpoint = find_endpoint(home, lane)
        question = {
            "model": endpoint.model,
            "messages": [{"role": "user", "content": "What is the capital of Japan?"}],
            "temperature": 0,
            "max_tokens": 20,
        }
        request = urllib.request.Request(
            f"{endpoint.url}/chat/completions",
            data=json.dumps(question).encode(),
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            reply = json.load(answer)
    finally:
        manager.close()
    assert "Tokyo" in reply["choices"][0]["message"]["content"]
    assert endpoint.version.startswith("transformers 5.")
    assert endpoint.device == "cpu"
    assert any(stage and "weights" in stage for stage in stages)
    assert gone(status.pid)
