"""A memory sweep: its plan, its kept run, its job, and its points on stand-ins for engines and a GPU."""

import json
from dataclasses import replace

import pytest

from core.bench.memory_sweep import (
    JOB_KIND,
    LANE,
    PointResult,
    Sweeper,
    SweepPlan,
    SweepPoint,
    SweepRun,
    grid,
    load,
    run_file,
    save,
    start_sweep,
    sweep_id,
)
from core.codec import decode, encode
from core.domain.specs import EngineKind, ModelSpec, Weights
from core.engines.registry import Registry
from core.engines.requests import StoppedRequests, Unfinished
from core.errors import InputError
from core.jobs.registry import JobRecord, Jobs, JobState, JobStatus
from core.memory.prediction import MemoryPart
from core.settings import Settings
from core.telemetry.nvml import Nvml
from core.telemetry.samples import MemorySource
from tests.unit.engines.engine_stand_ins import model_in, row, settings_in
from tests.unit.telemetry.fake_nvml import GIB, FakeGpu, FakeNvml, process

MODEL = ModelSpec(name="tiny", checkpoint="/models/tiny", awq="/models/tiny-awq")
PLAN = SweepPlan(model=MODEL, points=grid((0.8, 0.05), (16, 4), (False, True)))
END_S = 60
WITHOUT_GPU = SweepPlan(
    model=ModelSpec(name="tiny", checkpoint="/models/tiny"), points=(SweepPoint(ratio=0.4),), gpu=99
)

SAYS = (
    "--say",
    "Object cache budget: 20480.00 MB from free 51200.00 MB and ratio 0.400",
    "--say",
    "slab_size 33554432, object_size 16384, object_count 2048, ratio 1",
)


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


def test_the_worker_says_why_it_can_t_measure(settings):
    job_id = start_sweep(settings, WITHOUT_GPU)
    status = Jobs(settings).wait(job_id, END_S)
    assert (status.state, status.record.error.code) == (JobState.FAILED, "no-gpu")
    assert status.spec.kind == JOB_KIND
    assert sweep_id(status.spec) == WITHOUT_GPU.id


def test_one_sweep_at_a_time_on_a_gpu(settings, monkeypatch):
    started = []
    monkeypatch.setattr(Jobs, "start", lambda self, spec: started.append(spec) or spec.id)
    monkeypatch.setattr(Jobs, "statuses", lambda self, kind: [running(spec) for spec in started])
    start_sweep(settings, WITHOUT_GPU)
    with pytest.raises(InputError) as refusal:
        start_sweep(settings, replace(WITHOUT_GPU, id="other"))
    assert refusal.value.code == "already-running"
    start_sweep(settings, replace(WITHOUT_GPU, gpu=1))


def running(spec):
    return JobStatus(spec, JobRecord(state=JobState.RUNNING))


class Gpu(FakeGpu):
    """Gives an engine 21 GiB as soon as it runs."""

    registry: Registry

    @property
    def processes(self):
        entries = [e for e in self.registry.read().values() if e.alive]
        return [process(entry.process.pid, 21 * GIB) for entry in entries]

    @processes.setter
    def processes(self, value):
        pass


@pytest.fixture
def sweep(tmp_path):
    """Runs a sweep with the given launch row; the run after each point in `seen`."""
    settings = settings_in(tmp_path)
    gpu = Gpu()
    gpu.registry = Registry(settings)
    model = model_in(tmp_path)
    seen = []

    def run(points, launch_row):
        plan = SweepPlan(model=model, points=points, max_tokens=8)
        sweeper = Sweeper(settings, plan, nvml=Nvml(FakeNvml(gpu)), rows={EngineKind.TURBOMIND: launch_row})
        return sweeper.run(seen.append)

    run.seen = seen
    run.registry = gpu.registry
    return run


def test_each_point_holds_prediction_and_measurement(sweep):
    run = sweep(grid((0.4, 0.2)), row(*SAYS, needs_gpu=True))
    assert [point.error for point in run.points] == [None, None]
    first, second = run.points
    assert first.free_before_bytes == 80 * GIB - 10 * GIB - GIB // 2
    assert (first.measured_bytes, first.measured_source) == (21 * GIB, MemorySource.PROCESSES)
    assert first.log_kv_bytes == 20 * GIB
    assert first.log_kv_tokens == 640 * 2048 * 64
    assert second.predicted_kv_bytes == pytest.approx(first.predicted_kv_bytes / 2, abs=2)
    assert first.kv_error_ratio == pytest.approx(first.predicted_kv_bytes / (20 * GIB) - 1)
    assert first.decode_tok_per_s > 0
    assert run.engine_version
    assert [len(seen.points) for seen in sweep.seen] == [1, 2]


def test_each_point_waits_for_stopped_requests(sweep, monkeypatch):
    looked_at = []

    def before(self, endpoint):
        looked_at.append(endpoint.device)
        return Unfinished()

    monkeypatch.setattr(StoppedRequests, "before", before)
    sweep(grid((0.4, 0.2)), row(*SAYS, needs_gpu=True))
    assert looked_at == ["cuda:0", "cuda:0"]


def test_the_engine_is_stopped_after_every_point(sweep):
    sweep(grid((0.4,)), row(*SAYS, needs_gpu=True))
    assert not sweep.registry.get(LANE).alive


def test_a_point_that_does_not_start_is_its_own_result(sweep):
    run = sweep(grid((0.99, 0.4)), row(*SAYS, needs_gpu=True))
    too_much, fine = run.points
    assert too_much.error.code == "gpu-full"
    assert too_much.predicted_kv_bytes > 0
    assert too_much.measured_bytes is None
    assert fine.error is None


def test_an_engine_that_dies_within_its_answer_is_named(sweep):
    run = sweep(grid((0.4,)), row(*SAYS, "--die-after", "2", needs_gpu=True))
    assert run.points[0].error is not None
    assert run.points[0].measured_bytes is None


def test_a_silent_log_leaves_the_log_s_figures_unknown(sweep):
    (point,) = sweep(grid((0.4,)), row(needs_gpu=True)).points
    assert (point.log_kv_bytes, point.log_kv_tokens, point.kv_error_ratio) == (None, None, None)
    assert point.total_error_ratio is not None


def test_without_that_gpu_there_is_no_sweep(tmp_path):
    plan = SweepPlan(model=model_in(tmp_path), points=(SweepPoint(ratio=0.4),))
    with pytest.raises(InputError) as failure:
        Sweeper(settings_in(tmp_path), plan, nvml=Nvml(FakeNvml())).run(print)
    assert failure.value.code == "no-gpu"
