"""The commands that look at the machine: `doctor`, `memory predict` and `telemetry`."""

import json
from datetime import UTC, datetime

import pytest
import typer
from typer.testing import CliRunner

from core.bench import bandwidth
from core.bench.bandwidth import Bandwidth
from core.cli import machine, memory
from core.doctor.fitness import Diagnosis, Finding, LaneFitness, Status
from core.domain.turns import ErrorInfo, Machine
from core.errors import InputError
from tests.unit.cli.safetensors_stub import write_checkpoint


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("LMDYNO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LMDYNO_LANES", raising=False)
    monkeypatch.setattr("core.settings.PROJECT_ROOT", tmp_path)  # without a lanes file of somebody's own


@pytest.fixture
def app():
    app = typer.Typer()
    app.command()(machine.doctor)
    app.add_typer(memory.app, name="memory")
    app.command()(machine.telemetry)
    app.command()(machine.bandwidth)
    return app


def diagnosis(status):
    return Diagnosis(
        findings=(Finding(status, "store", "It is full", "Correct [models.m]."),),
        lanes=(
            LaneFitness("hf", None),
            LaneFitness("awq", ErrorInfo("no-gpu", "No GPU is here", "Use the CPU.")),
        ),
        machine=Machine(host="h", platform="Linux", python="3.12.1"),
    )


@pytest.mark.parametrize(("status", "code"), [(Status.WARN, 0), (Status.FAIL, 1)])
def test_doctor_as_json(app, monkeypatch, status, code):
    monkeypatch.setattr(machine, "examine_all", lambda settings, registry: diagnosis(status))
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == code
    document = json.loads(result.stdout)
    assert document["findings"] == [
        {"status": status, "what": "store", "detail": "It is full", "remedy": "Correct [models.m]."}
    ]
    assert document["lanes"] == [
        {"name": "hf", "can_run": True, "reason": None, "hint": None},
        {"name": "awq", "can_run": False, "reason": "No GPU is here", "hint": "Use the CPU."},
    ]
    assert document["machine"]["host"] == "h"


def test_doctor_as_a_table_shows_each_remedy(app, monkeypatch):
    monkeypatch.setattr(machine, "examine_all", lambda settings, registry: diagnosis(Status.FAIL))
    result = CliRunner().invoke(app, ["doctor"])
    assert "It is full" in result.stdout
    assert "Correct [models.m]." in result.stdout


def test_memory_predict_as_json(app, tmp_path):
    folder = write_checkpoint(tmp_path / "model")
    result = CliRunner().invoke(
        app, ["memory", "predict", str(folder), "--ratio", "0.5", "--gpu-gib", "24", "--json"]
    )
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["kv_bytes_per_token"] == 131_072
    assert document["kv_tokens"] == document["kv_blocks"] * 64
    assert document["fits"] is True
    assert sum(part["size_bytes"] for part in document["parts"]) == document["total_bytes"]


def test_memory_predict_in_words_and_with_fewer_bits(app, tmp_path):
    folder = write_checkpoint(tmp_path / "model")
    arguments = ["memory", "predict", str(folder), "--ratio", "0.5", "--gpu-gib", "24", "--kv-bits", "4"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "34,816 bytes" in result.stdout


def test_memory_predict_from_a_config_alone(app, tmp_path):
    folder = write_checkpoint(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    arguments = ["--ratio", "0.5", "--gpu-gib", "40"]
    for path in (folder, folder / "config.json"):
        result = CliRunner().invoke(app, ["memory", "predict", str(path), *arguments, "--json"])
        document = json.loads(result.stdout)
        assert document["weights_counted_from_config"] is True
        weights = next(part for part in document["parts"] if part["name"] == "weights")
        assert weights["size_bytes"] == pytest.approx(16.06e9, rel=0.001)
    assert "counted from" in CliRunner().invoke(app, ["memory", "predict", str(folder), *arguments]).stdout


def test_memory_predict_refuses_what_the_arithmetic_does_not_hold_for(app, tmp_path):
    folder = write_checkpoint(tmp_path / "model", sliding_window=1024)
    result = CliRunner().invoke(app, ["memory", "predict", str(folder), "--ratio", "0.5", "--gpu-gib", "24"])
    assert isinstance(result.exception, InputError)
    assert result.exception.code == "kv-arithmetic-unknown"


def test_telemetry_samples_for_the_time_asked_for(app):
    result = CliRunner().invoke(app, ["telemetry", "--seconds", "0.3", "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["samples"]
    assert document["window"]["end_ns"] - document["window"]["start_ns"] >= 0.3e9


def test_telemetry_as_a_table(app):
    result = CliRunner().invoke(app, ["telemetry", "--seconds", "0.3"])
    assert result.exit_code == 0, result.output
    assert "samples" in result.stdout


def test_the_bandwidth_is_told_beside_the_data_sheets(app, monkeypatch):
    found = Bandwidth(
        gpu_name="NVIDIA H100 80GB HBM3",
        gpu_uuid="GPU-1",
        bytes_per_s=3.02e12,
        low_bytes_per_s=2.99e12,
        high_bytes_per_s=3.05e12,
        n=25,
        buffer_bytes=2**32,
        driver="580.1",
        torch="2.11.0",
        measured_at=datetime(2026, 3, 1, tzinfo=UTC),
    )
    monkeypatch.setattr(bandwidth, "measure_bandwidth", lambda settings, gpu_index: found)
    shown = CliRunner().invoke(app, ["bandwidth"]).stdout
    assert "3,020 GB/s, median of 25 (2,990 to 3,050)" in shown
    assert "3,350 GB/s" in shown
    assert json.loads(CliRunner().invoke(app, ["bandwidth", "--json"]).stdout)["n"] == 25
