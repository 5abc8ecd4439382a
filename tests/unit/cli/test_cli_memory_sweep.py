"""`memory sweep` from the command line, without an engine."""

import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from core.bench.memory_sweep import PointResult, SweepPoint, SweepRun, save
from core.cli import memory
from core.domain.turns import ErrorInfo
from core.jobs.registry import JobRecord, Jobs, JobSpec, JobState, JobStatus
from core.memory.prediction import MemoryPart

GIB = 2**30


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Runs the command over a job that has ended and left these points."""
    lanes = tmp_path / "lanes.toml"
    lanes.write_text(
        '[models.tiny]\ncheckpoint = "/models/tiny"\n[lanes.hf]\nengine = "transformers"\nmodel = "tiny"\n'
    )
    monkeypatch.setenv("LMDYNO_HOME", str(tmp_path))
    monkeypatch.setenv("LMDYNO_LANES", str(lanes))
    plans, nodes = [], []

    def run(*arguments, points=(), state=JobState.DONE, error=None):
        def start(settings, plan, *, node):
            nodes.append(node)
            plans.append(plan)
            save(settings, SweepRun(plan=plan, gpu_name="H100", gpu_total_bytes=80 * GIB, points=points))
            return "job"

        spec = JobSpec(kind="memory-sweep", title="", worker="w", arguments={}, python="python")
        monkeypatch.setattr(memory, "start_sweep", start)
        monkeypatch.setattr(
            Jobs, "status", lambda self, job_id: JobStatus(spec, JobRecord(state=state, error=error))
        )
        monkeypatch.setattr(memory, "output", Console(highlight=False, width=200))
        return CliRunner().invoke(memory.app, ["sweep", "tiny", *arguments])

    run.plans, run.nodes = plans, nodes
    return run


MEASURED = PointResult(
    point=SweepPoint(ratio=0.4),
    predicted_parts=(MemoryPart("weights", 21 * GIB, "checkpoint"),),
    predicted_kv_bytes=10 * GIB,
    log_kv_bytes=10 * GIB,
    measured_bytes=20 * GIB,
)


def test_the_table_shows_the_errors(sweep):
    result = sweep(points=(MEASURED,))
    assert result.exit_code == 0
    assert "+5.0%" in result.output
    assert "20.00 GiB" in result.output


def test_options_become_points(sweep):
    sweep("--ratio", "0.8", "--ratio", "0.05", "--kv-bits", "8", "--both", points=(MEASURED,))
    assert [point.label for point in sweep.plans[0].points] == [
        "0.8 · KV 8-bit",
        "0.05 · KV 8-bit",
        "0.8 · KV 8-bit · AWQ",
        "0.05 · KV 8-bit · AWQ",
    ]


def test_a_node_can_measure(sweep):
    sweep(points=(MEASURED,))
    sweep("--node", "gpu-1", points=(MEASURED,))
    assert sweep.nodes == [None, "gpu-1"]


def test_json_holds_the_run_and_its_errors(sweep):
    document = json.loads(sweep("--json", points=(MEASURED,)).output)
    assert document["errors"][0]["total_error_ratio"] == pytest.approx(0.05)
    assert document["run"]["gpu_name"] == "H100"


def test_a_failed_point_or_job_is_an_exit_code(sweep):
    failed = PointResult(point=SweepPoint(ratio=0.4), error=ErrorInfo("gpu-full", "It does not fit"))
    result = sweep(points=(failed,))
    assert (result.exit_code, "It does not fit" in result.output) == (1, True)
    lost = ErrorInfo("no-gpu", "There is no GPU", "Get one.")
    result = sweep(points=(), state=JobState.FAILED, error=lost)
    assert (result.exit_code, "Get one." in result.output) == (1, True)
