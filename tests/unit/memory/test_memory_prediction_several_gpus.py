"""The prediction against what two H200 showed (docs/measurements/several-gpus.md).

What communication takes comes from the fp16 engine over two GPUs; the W4A16 engine over two checks it.
"""

import json
import lzma
from pathlib import Path

import pytest

from core.memory.model_sizes import COMMON_MODELS, checkpoint_sizes
from core.memory.prediction import MemorySettings, predict

REPORT = Path(__file__).parents[3] / "docs" / "measurements" / "several-gpus.json.xz"
STEPS = json.loads(lzma.decompress(REPORT.read_bytes()))["steps"]
RATIO = 0.3
ENGINES = [
    ("two gpus", "turbomind", 1),
    ("two gpus", "awq", 1),
    ("tp 2", "turbomind-tp2", 2),
    ("awq tp 2", "awq-tp2", 2),
    ("replicas", "turbomind-x2", 1),
    ("one gpu", "awq-on-0", 1),
]


def predicted(name, tp, free_bytes):
    facts = next(model.facts for model in COMMON_MODELS if model.name == "InternLM2.5-7B")
    model = checkpoint_sizes(facts, awq=name.startswith("awq"))
    return predict(model, MemorySettings(cache_max_entry_count=RATIO, tp=tp), free_bytes)


@pytest.mark.parametrize(("step", "name", "tp"), ENGINES, ids=[f"{step} {name}" for step, name, _ in ENGINES])
def test_memory_of_each_gpu_within_half_a_per_cent(step, name, tp):
    engine = STEPS[step]["result"]["memory"]["engines"][name]
    assert len(engine["gpus"]) == (2 if tp == 2 or name.endswith("x2") else 1)
    for index, measured_bytes in engine["measured_bytes"].items():
        prediction = predicted(name, tp, engine["free_before_bytes"][index])
        assert prediction.total_bytes == pytest.approx(measured_bytes, rel=0.005)


@pytest.mark.parametrize(
    ("step", "name", "tp"), ENGINES[:4], ids=[f"{step} {name}" for step, name, _ in ENGINES[:4]]
)
def test_kv_cache_within_a_fifth_of_a_per_cent(step, name, tp):
    engine = STEPS[step]["result"]["memory"]["engines"][name]
    pool = predicted(name, tp, engine["free_before_bytes"][str(engine["gpus"][0])]).pool
    assert pool.reserved_bytes == pytest.approx(engine["log_kv_bytes"], rel=0.002)
    assert pool.tokens == pytest.approx(engine["log_kv_tokens"], rel=0.002)


def test_only_an_engine_over_several_gpus_pays_for_communication():
    names = [[part.name for part in predicted("turbomind", tp, 80 * 2**30).parts] for tp in (1, 2)]
    assert "communication" not in names[0]
    assert "communication" in names[1]
