"""The real quantiser on the CPU: slow, and the proof that LMDeploy is driven rightly."""

import json
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from core.domain.specs import ModelSpec
from core.errors import InputError
from core.jobs.registry import Jobs, JobState, JobStatus
from core.models.awq import worker
from core.models.awq.options import AwqOptions
from core.models.checkpoint import read_checkpoint
from core.models.job import check_quantization, prepare_demo_awq, quantize, read_provenance
from core.settings import Settings
from tests.engines.awq_tiny_model import write_tiny_llama

pytestmark = pytest.mark.timeout(900)
END_S = 600


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    pytest.importorskip("lmdeploy")
    folder = write_tiny_llama(tmp_path_factory.mktemp("models") / "tiny-llama")
    return ModelSpec(name="tiny-llama", checkpoint=str(folder))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path, lanes_file=tmp_path / "lanes.toml", database_url="sqlite://")


def on_cpu(**changes: object) -> AwqOptions:
    return AwqOptions(**{"device": "cpu", "calibration": "none", "samples": 2, "seqlen": 16, **changes})


def finish(settings: Settings, model: ModelSpec, options: AwqOptions) -> tuple[JobStatus, list[float]]:
    """The job's end, and every progress figure that was seen."""
    jobs, seen, deadline = Jobs(settings), [], time.monotonic() + END_S
    job_id = quantize(settings, model, options, gpus=())
    while not (status := jobs.status(job_id)).state.ended:
        assert time.monotonic() < deadline
        if status.record.progress is not None:
            seen.append(status.record.progress)
        time.sleep(0.02)
    return status, seen


def left_over(settings: Settings) -> list[str]:
    return [path.name for path in settings.models_dir.iterdir() if path.name.startswith(".")]


def test_without_data(settings: Settings, tiny: ModelSpec) -> None:
    status, seen = finish(settings, tiny, on_cpu())

    assert status.state is JobState.DONE, status.record.error
    target = settings.models_dir / "tiny-llama-awq"
    before, after = read_checkpoint(tiny.checkpoint), read_checkpoint(target)
    assert (after.quantization, after.group_size) == ("awq", 128)
    assert after.parameters == before.parameters
    assert after.weight_bytes < before.weight_bytes
    assert seen == sorted(seen)
    assert len(set(seen)) >= 3
    provenance = read_provenance(target)
    assert provenance is not None
    assert (provenance.calibration, provenance.samples, provenance.device) == ("none", 0, "cpu")
    assert (provenance.source_bytes, provenance.result_bytes) == (before.weight_bytes, after.weight_bytes)
    assert provenance.versions["lmdeploy"]
    assert left_over(settings) == []
    with pytest.raises(InputError) as caught:
        quantize(settings, tiny, on_cpu(), gpus=())
    assert caught.value.code == "result-exists"


@pytest.mark.parametrize("search_scale", [False, True])
def test_with_a_local_file(settings: Settings, tiny: ModelSpec, tmp_path: Path, search_scale: bool) -> None:
    file = tmp_path / "own.jsonl"
    messages = [{"role": "user", "content": "What does a dynamometer measure? " * 10}]
    file.write_text(
        "\n".join(json.dumps(line) for line in ({"messages": messages}, {"text": "Power. " * 200}))
    )
    out = tmp_path / "elsewhere" / "tiny-llama-w4"

    status, _ = finish(settings, tiny, on_cpu(calibration=str(file), search_scale=search_scale, out=str(out)))

    assert status.state is JobState.DONE, status.record.error
    log = Jobs(settings).log_tail(status.id, 200)
    assert "model.layers.1, samples: 2" in log
    assert "model.layers.1 smooth weight done" in log
    provenance = read_provenance(out)
    assert provenance is not None
    assert (provenance.calibration, provenance.samples, provenance.seqlen) == ("own.jsonl", 2, 16)
    assert provenance.calibration_sha256 is not None
    assert provenance.search_scale is search_scale
    assert read_checkpoint(out).quantization == "awq"
    assert not list(out.glob("*.pth"))


def test_too_little_text_is_told_before_the_weights_are_loaded(tiny: ModelSpec, tmp_path: Path) -> None:
    file = tmp_path / "short.txt"
    file.write_text("Power is torque times angular speed. " * 20)
    arguments = {
        "source": tiny.checkpoint,
        "scratch": str(tmp_path / "scratch"),
        "target": str(tmp_path / "tiny-llama-awq"),
        "options": asdict(on_cpu(calibration=str(file), samples=4000)),
    }

    with pytest.raises(InputError) as caught:
        worker.quantize(arguments, lambda *_: None)  # without a job: a process would load lmdeploy anew

    assert caught.value.code == "calibration-too-short"
    assert "samples of 16 tokens instead of 4000" in str(caught.value.message)
    assert not (tmp_path / "tiny-llama-awq").exists()


def test_weights_that_are_no_numbers_are_explained(
    settings: Settings, tiny: ModelSpec, tmp_path: Path
) -> None:
    broken = write_tiny_llama(tmp_path / "broken", nan=True)

    status, _ = finish(settings, ModelSpec(name="broken", checkpoint=str(broken)), on_cpu())

    assert status.record.error is not None
    assert status.record.error.code == "not-a-number"
    assert left_over(settings) == []


def test_cancelling_leaves_nothing(settings: Settings, tiny: ModelSpec) -> None:
    jobs = Jobs(settings)
    job_id = quantize(settings, tiny, on_cpu(calibration="python-docs", samples=64, seqlen=128), gpus=())
    deadline = time.monotonic() + END_S
    while jobs.status(job_id).record.progress is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert left_over(settings)
    findings = check_quantization(settings, tiny, on_cpu(), gpus=())
    assert "already-running" in {finding.problem.code for finding in findings if finding.blocking}

    jobs.cancel(job_id)

    assert jobs.wait(job_id, 60).state is JobState.CANCELLED
    assert left_over(settings) == []
    assert not (settings.models_dir / "tiny-llama-awq").exists()


def test_the_demo_needs_its_weights_first(settings: Settings) -> None:
    with pytest.raises(InputError) as caught:
        prepare_demo_awq(settings)
    assert caught.value.code == "model-not-here"
