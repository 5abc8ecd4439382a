"""The prediction against what an H100 showed (docs/measurements/memory.json).

The constants come from the points of the 1.8B size; those of the 7B size check them.
"""

import json
from pathlib import Path

import pytest

from core.memory.model_sizes import COMMON_MODELS, checkpoint_sizes
from core.memory.prediction import MemorySettings, predict

REPORT = json.loads((Path(__file__).parents[3] / "docs" / "measurements" / "memory.json").read_text("utf-8"))
NAMES = {"sweep 1.8b": "InternLM2-1.8B", "sweep 7b": "InternLM2.5-7B"}
POINTS = [
    pytest.param(NAMES[step], point, id=f"{NAMES[step]} {point['label']}")
    for step in NAMES
    for point in REPORT["steps"][step]["result"]["points"]
]


@pytest.mark.parametrize(("name", "point"), POINTS)
def test_kv_cache_within_2_and_total_within_5_per_cent(name, point):
    facts = next(model.facts for model in COMMON_MODELS if model.name == name)
    model = checkpoint_sizes(facts, awq=point["point"]["awq"])
    settings = MemorySettings(
        cache_max_entry_count=point["point"]["ratio"], kv_bits=point["point"]["kv_bits"]
    )
    prediction = predict(model, settings, point["free_before_bytes"])
    kv_bytes = next(part.size_bytes for part in prediction.parts if part.name == "KV cache")
    assert kv_bytes == pytest.approx(point["log_kv_bytes"], rel=0.02)
    assert prediction.pool.tokens == pytest.approx(point["log_kv_tokens"], rel=0.02)
    assert prediction.total_bytes == pytest.approx(point["measured_bytes"], rel=0.05)
