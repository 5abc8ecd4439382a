"""A sweep over real processes that print TurboMind's lines, on a GPU that the tests describe."""

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
sys.path[:0] = [str(TESTS / "unit" / "engines"), str(TESTS / "unit" / "telemetry")]

from core.domain.specs import EngineKind  # noqa: E402
from core.engines.registry import Registry  # noqa: E402
from core.engines.requests import StoppedRequests, Unfinished  # noqa: E402
from core.errors import InputError  # noqa: E402
from core.memory_sweep.runner import Sweeper  # noqa: E402
from core.memory_sweep.sweep import LANE, SweepPlan, SweepPoint, grid  # noqa: E402
from core.telemetry.nvml import Nvml  # noqa: E402
from core.telemetry.samples import MemorySource  # noqa: E402
from tests.unit.engines.engine_stand_ins import model_in, row, settings_in  # noqa: E402
from tests.unit.telemetry.fake_nvml import GIB, FakeGpu, FakeNvml  # noqa: E402

SAYS = (
    "--say",
    "Object cache budget: 20480.00 MB from free 51200.00 MB and ratio 0.400",
    "--say",
    "slab_size 33554432, object_size 16384, object_count 2048, ratio 1",
)


class Gpu(FakeGpu):
    """Gives an engine 21 GiB as soon as it runs."""

    registry: Registry

    @property
    def processes(self):
        from fake_nvml import process

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
