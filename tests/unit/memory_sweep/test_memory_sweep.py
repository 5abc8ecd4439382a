import json

import pytest

from core.codec import decode, encode
from core.domain.specs import EngineKind, ModelSpec, Weights
from core.errors import InputError
from core.memory.prediction import MemoryPart
from core.memory_sweep.sweep import PointResult, SweepPlan, SweepPoint, SweepRun, grid, load, run_file, save
from core.settings import Settings

MODEL = ModelSpec(name="tiny", checkpoint="/models/tiny", awq="/models/tiny-awq")
PLAN = SweepPlan(model=MODEL, points=grid((0.8, 0.05), (16, 4), (False, True)))


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path, lanes_file=tmp_path / "lanes.toml", database_url="sqlite://")


def test_the_grid_has_every_combination_with_the_ratios_together():
    assert [point.label for point in PLAN.points][:3] == [
        "0.8 · KV 16-bit",
        "0.05 · KV 16-bit",
        "0.8 · KV 4-bit",
    ]
    assert len(PLAN.points) == 8
    assert PLAN.points[-1].label == "0.05 · KV 4-bit · AWQ"


def test_a_point_becomes_a_lane_of_its_own_settings():
    plain, awq = PLAN.lane(SweepPoint(ratio=0.8)), PLAN.lane(SweepPoint(ratio=0.05, kv_bits=4, awq=True))
    assert (plain.kind, plain.weights, plain.settings.quant_policy) == (EngineKind.TURBOMIND, "checkpoint", 0)
    assert (awq.kind, awq.weights) == (EngineKind.AWQ, Weights.AWQ)
    assert (awq.settings.cache_max_entry_count, awq.settings.quant_policy) == (0.05, 4)
    assert awq.settings.devices == (0,)


@pytest.mark.parametrize(
    "points",
    [(), grid((1.0,)), grid((0.4,), (2,)), grid([0.01 * n for n in range(1, 62)])],
    ids=["none", "ratio 1", "2 bits", "61 points"],
)
def test_what_no_engine_could_be_started_with_is_refused(points):
    with pytest.raises(InputError):
        SweepPlan(model=MODEL, points=points)


def test_a_plan_survives_the_way_to_its_worker():
    assert decode(SweepPlan, json.dumps(json.loads(encode(PLAN)))) == PLAN


def test_errors_are_predicted_over_measured():
    result = PointResult(
        point=SweepPoint(ratio=0.4),
        predicted_parts=(MemoryPart("weights", 60, "checkpoint"), MemoryPart("KV cache", 42, "arithmetic")),
        predicted_kv_bytes=42,
        predicted_kv_tokens=640,
        measured_bytes=100,
        log_kv_bytes=40,
        log_kv_tokens=640,
    )
    assert result.total_error_ratio == pytest.approx(0.02)
    assert result.kv_error_ratio == pytest.approx(0.05)
    assert result.tokens_error_ratio == 0
    assert PointResult(point=SweepPoint(ratio=0.4)).total_error_ratio is None


def test_a_run_is_kept_and_found_again(settings):
    run = SweepRun(plan=PLAN, gpu_name="H100", gpu_total_bytes=1, points=(PointResult(point=PLAN.points[0]),))
    assert load(settings, PLAN.id) is None
    save(settings, run)
    assert load(settings, PLAN.id) == run
    assert [path.name for path in run_file(settings, PLAN.id).parent.iterdir()] == [f"{PLAN.id}.json"]


def test_a_name_that_is_no_id_leads_nowhere(settings):
    with pytest.raises(InputError):
        load(settings, "../../etc/passwd")
