import sys
from dataclasses import dataclass, replace

import pytest

from core.config import LaneRegistry, load_lanes
from core.doctor import examine
from core.doctor.fitness import Status
from core.doctor.stack import EngineStack, TorchFacts
from core.domain.specs import EngineKind, EngineSettings, LaneSpec, ModelSpec
from core.domain.turns import ErrorInfo
from core.settings import load_settings
from core.telemetry.samples import GpuFacts

GIB = 2**30
H100 = GpuFacts(index=0, name="H100", total_bytes=80 * GIB, free_bytes=79 * GIB, compute_capability=(9, 0))


@dataclass
class StubNvml:
    gpus: tuple = ()
    trouble: ErrorInfo | None = None

    def devices(self):
        return self.gpus

    def driver_version(self):
        return "580.95.05" if self.gpus else None

    def cuda_version(self):
        return (13, 0) if self.gpus else None

    def problem(self):
        return self.trouble

    def close(self):
        pass


def fitting(python):
    return EngineStack(
        python=python,
        python_version="3.12.1",
        versions={"lmdeploy": "0.18.0", "torch": "2.12.1", "transformers": "5.23.0"},
        torch=TorchFacts("13.0", True, ("sm_90",)),
        turbomind_loads=True,
    )


@pytest.fixture
def settings(tmp_path):
    return replace(load_settings({"LMDYNO_HOME": str(tmp_path / "home")}), lanes_file=tmp_path / "none")


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    return ModelSpec(name="m", checkpoint=str(folder), awq=str(folder))


def registry(*lanes):
    models = {lane.model.name: lane.model for lane in lanes}
    return LaneRegistry(models=tuple(models.values()), lanes=lanes, source=None)


def by_what(diagnosis):
    return {finding.subject: finding for finding in diagnosis.findings}


def test_a_gpu_machine_where_everything_fits(settings, model):
    lanes = registry(
        LaneSpec(name="hf", kind=EngineKind.TRANSFORMERS, model=model),
        LaneSpec(name="turbomind", kind=EngineKind.TURBOMIND, model=model),
    )
    diagnosis = examine(settings, lanes, nvml=StubNvml((H100,)), probe=fitting)
    assert not diagnosis.failed
    assert [(lane.name, lane.can_run) for lane in diagnosis.lanes] == [("hf", True), ("turbomind", True)]
    found = by_what(diagnosis)
    assert found["GPU 0"].status is Status.OK
    assert found["NVIDIA driver"].detail == "580.95.05, supports CUDA up to 13.0"
    assert found["Store"].status is Status.OK
    assert diagnosis.machine.gpus == ("H100, 80.00 GiB",)


@pytest.mark.parametrize("settings_of_lane", [{"tp": 2}, {"replicas": 2}, {"devices": (0, 1)}])
def test_a_lane_that_spans_more_gpus_than_there_are(settings, model, settings_of_lane):
    lane = LaneSpec(
        name="wide", kind=EngineKind.TURBOMIND, model=model, settings=EngineSettings(**settings_of_lane)
    )
    (alone,) = examine(settings, registry(lane), nvml=StubNvml((H100,)), probe=fitting).lanes
    assert alone.reason.code == "too-few-gpus"
    assert "needs 2 GPUs, but only 1" in alone.reason.message
    both = StubNvml((H100, replace(H100, index=1)))
    assert examine(settings, registry(lane), nvml=both, probe=fitting).lanes[0].can_run


def test_a_lane_whose_backend_does_not_load_can_t_run_although_its_files_are_there(settings, model):
    def broken(python):
        return EngineStack(
            python=python,
            versions={"lmdeploy": "0.18.0"},
            torch=TorchFacts("13.0", True, ("sm_90",)),
            turbomind_problem="libcublas.so.12",
        )

    lanes = registry(
        LaneSpec(name="turbomind", kind=EngineKind.TURBOMIND, model=model),
        LaneSpec(name="pytorch", kind=EngineKind.PYTORCH, model=model),
    )
    diagnosis = examine(settings, lanes, nvml=StubNvml((H100,)), probe=broken)
    turbomind, pytorch = diagnosis.lanes
    assert turbomind.reason.code == "turbomind-unfit"
    assert pytorch.can_run
    assert diagnosis.failed


def test_gpu_lanes_on_a_machine_without_one_say_what_can_be_done(settings, model):
    trouble = ErrorInfo("no-nvidia-driver", "No NVIDIA driver is installed", "Use the CPU.")
    lanes = registry(
        LaneSpec(name="hf", kind=EngineKind.TRANSFORMERS, model=model),
        LaneSpec(name="awq", kind=EngineKind.AWQ, model=model),
    )
    diagnosis = examine(settings, lanes, nvml=StubNvml(trouble=trouble), probe=fitting)
    found = by_what(diagnosis)
    assert found["Lane hf"].status is Status.OK
    assert found["Lane awq"].status is Status.WARN
    assert "endpoint" in found["Lane awq"].remedy
    assert (found["GPU"].status, found["GPU"].detail) == (Status.INFO, "No NVIDIA driver is installed")
    assert not diagnosis.failed


def test_a_machine_on_which_nothing_runs_fails(settings, model):
    diagnosis = examine(
        settings,
        registry(LaneSpec(name="awq", kind=EngineKind.AWQ, model=model)),
        nvml=StubNvml(),
        probe=fitting,
    )
    assert by_what(diagnosis)["Lanes"].status is Status.FAIL
    assert diagnosis.failed


def test_every_python_that_a_lane_names_is_asked_once(settings, model):
    asked = []

    def probe(python):
        asked.append(python)
        return fitting(python)

    own = EngineSettings(python="/bin/sh")
    lanes = registry(
        LaneSpec(name="a", kind=EngineKind.TURBOMIND, model=model, settings=own),
        LaneSpec(name="b", kind=EngineKind.TURBOMIND, model=model, settings=own),
        LaneSpec(name="c", kind=EngineKind.TRANSFORMERS, model=model),
    )
    diagnosis = examine(settings, lanes, nvml=StubNvml((H100,)), probe=probe)
    assert asked == [sys.executable, "/bin/sh"]
    assert "Engines in /bin/sh: TurboMind" in by_what(diagnosis)


def test_a_store_that_can_t_be_written_fails_with_the_reason(settings, model, tmp_path):
    (tmp_path / "home").write_text("a file where a folder should be")
    diagnosis = examine(
        settings,
        registry(LaneSpec(name="hf", kind=EngineKind.TRANSFORMERS, model=model)),
        nvml=StubNvml(),
        probe=fitting,
    )
    store = by_what(diagnosis)["Store"]
    assert store.status is Status.FAIL
    assert store.remedy


def test_demo_weights_that_are_missing_are_a_warning_with_the_command(settings):
    lanes = load_lanes(settings, gpu=False)
    diagnosis = examine(settings, lanes, nvml=StubNvml(), probe=fitting)
    found = by_what(diagnosis)
    assert found["Demo weights"].status is Status.WARN
    assert "models demo" in found["Demo weights"].remedy
    assert "models demo" in found["Lane hf"].remedy


def test_a_nearly_full_gpu_is_pointed_out(settings, model):
    full = GpuFacts(index=0, name="H100", total_bytes=80 * GIB, free_bytes=5 * GIB)
    diagnosis = examine(
        settings,
        registry(LaneSpec(name="hf", kind=EngineKind.TRANSFORMERS, model=model)),
        nvml=StubNvml((full,)),
        probe=fitting,
    )
    assert by_what(diagnosis)["GPU 0"].status is Status.WARN


def test_what_takes_no_child_process_is_told_first(settings, model):
    told = []

    def probe(python):
        assert told, "the machine's findings come before the engines' Python is asked"
        return fitting(python)

    lane = LaneSpec(name="hf", kind=EngineKind.TRANSFORMERS, model=model)
    diagnosis = examine(settings, registry(lane), nvml=StubNvml(), probe=probe, on_findings=told.append)
    assert {finding.subject for finding in told[0]} >= {"Store"}
    assert "Lane hf" in {finding.subject for finding in told[-1]}
    assert sorted(found.subject for part in told for found in part) == sorted(
        f.subject for f in diagnosis.findings
    )
