"""The copy that measures a GPU's bandwidth: what it refuses, what it keeps, and how its worker speaks."""

import json
import sys
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from core.bench import bandwidth, bandwidth_worker
from core.bench.bandwidth import (
    Bandwidth,
    measure_bandwidth,
    measured_bandwidth,
    measured_bandwidths,
    utilisations,
)
from core.bench.results.result import results
from core.cli.bench import utilisation_text
from core.domain.runs import GpuUse, LoadLevel
from core.domain.specs import EngineSettings
from core.errors import EngineBusy, EngineError, EngineNotInstalled, EngineOutOfMemory, InputError
from core.files import lock_path, try_lock, unlock
from core.telemetry.samples import GpuFacts, GpuReading
from tests.unit.bench.bench_samples import A, a_pass, a_plan, a_record, a_request

GIB = 2**30
GPU = GpuFacts(index=0, name="H100", total_bytes=80 * GIB, free_bytes=79 * GIB, uuid="GPU-1")


class FakeGpus:
    def __init__(self, *devices, utilisation=0.0):
        self._devices = devices
        self._utilisation = utilisation

    def devices(self):
        return self._devices

    def readings(self):
        return tuple(
            GpuReading(index=each.index, name=each.name, utilisation_ratio=self._utilisation)
            for each in self._devices
        )

    def driver_version(self):
        return "580.1"


def python_that(tmp_path, body):
    """An interpreter that plays the worker: a shell script, told the same arguments."""
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\n{body}\n", "utf-8")
    script.chmod(0o755)
    return str(script)


def answering(tmp_path, **answer):
    facts = {"gpu": "H100", "torch": "2.11", "moved_bytes": 6000, "seconds": [1.0, 2.0, 3.0]} | answer
    return python_that(tmp_path, f"echo loading\necho '{json.dumps(facts)}'")


def test_the_bandwidth_is_the_median_of_the_repeats_and_is_kept(settings, tmp_path):
    found = measure_bandwidth(settings, gpus=FakeGpus(GPU), python=answering(tmp_path))
    assert (found.bytes_per_s, found.low_bytes_per_s, found.high_bytes_per_s) == (3000, 2000, 6000)
    assert (found.n, found.driver, found.torch, found.gpu_uuid) == (3, "580.1", "2.11", "GPU-1")
    assert measured_bandwidth(settings, "H100") == found
    assert measured_bandwidth(settings, "A100") is None


def test_the_worker_gets_one_gpu_and_bounded_buffers(settings, tmp_path):
    python = python_that(
        tmp_path,
        f'echo "$* $CUDA_VISIBLE_DEVICES" > {tmp_path}/asked\n'
        'echo \'{"torch": "2", "moved_bytes": 1, "seconds": [1]}\'',
    )
    measure_bandwidth(settings, gpus=FakeGpus(GPU), python=python)
    asked = (tmp_path / "asked").read_text("utf-8").split()
    assert asked[:3] == ["-m", "core.bench.bandwidth_worker", str(4 * GIB)]
    assert asked[-1] == "GPU-1"
    nearly_full = replace(GPU, free_bytes=6 * GIB)
    assert measure_bandwidth(settings, gpus=FakeGpus(nearly_full), python=python).buffer_bytes == GIB


def test_a_new_measurement_replaces_the_old_one_of_that_gpu_only(settings, tmp_path):
    other = replace(GPU, index=1, uuid="GPU-2", name="A100")
    gpus = FakeGpus(GPU, other)
    measure_bandwidth(settings, gpus=gpus, python=answering(tmp_path))
    measure_bandwidth(settings, gpus=gpus, gpu_index=1, python=answering(tmp_path))
    measure_bandwidth(settings, gpus=gpus, python=answering(tmp_path, seconds=[2.0]))
    assert [each.gpu_name for each in measured_bandwidths(settings)] == ["H100", "A100"]
    assert measured_bandwidth(settings, "H100").bytes_per_s == 3000
    assert measured_bandwidth(settings, "H100").n == 1


def test_a_broken_file_holds_no_measurement_and_is_replaced(settings, tmp_path):
    settings.home.mkdir(parents=True, exist_ok=True)
    (settings.home / "bandwidth.json").write_text('{"GPU-1": {"n": "many"}}', "utf-8")
    assert measured_bandwidths(settings) == ()
    measure_bandwidth(settings, gpus=FakeGpus(GPU), python=answering(tmp_path))
    assert len(measured_bandwidths(settings)) == 1


@pytest.mark.parametrize(
    ("gpus", "index", "kind", "code"),
    [
        (FakeGpus(), 0, InputError, "no-gpu"),
        (FakeGpus(GPU), 3, InputError, "no-gpu"),
        (FakeGpus(GPU, utilisation=0.9), 0, EngineBusy, "gpu-busy"),
        (FakeGpus(replace(GPU, free_bytes=2 * GIB)), 0, EngineOutOfMemory, "gpu-full"),
    ],
)
def test_what_can_not_be_measured_is_refused_before_anything_starts(
    settings, tmp_path, gpus, index, kind, code
):
    python = python_that(tmp_path, f"touch {tmp_path}/started")
    with pytest.raises(kind) as caught:
        measure_bandwidth(settings, gpus=gpus, gpu_index=index, python=python)
    assert caught.value.code == code
    assert caught.value.hint
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("name", ["device-cuda:0.measure", "load-device-cuda-0"])
def test_it_waits_for_nobody_who_measures_or_loads(settings, tmp_path, name):
    held = try_lock(lock_path(settings.locks_dir, name))
    with pytest.raises(EngineBusy):
        measure_bandwidth(settings, gpus=FakeGpus(GPU), python=answering(tmp_path))
    unlock(held)
    measure_bandwidth(settings, gpus=FakeGpus(GPU), python=answering(tmp_path))


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ("echo 'CUDA is unhappy' >&2; exit 3", EngineError, "CUDA is unhappy"),
        ("exit 0", EngineError, "without a word"),
        ('echo \'{"error": "no-torch", "reason": "No module"}\'; exit 1', EngineNotInstalled, "No module"),
        ('echo \'{"error": "gpu-full", "reason": "8 GiB"}\'; exit 1', EngineOutOfMemory, "8 GiB"),
    ],
)
def test_a_worker_that_fails_says_why(settings, tmp_path, body, kind, words):
    with pytest.raises(kind, match=words):
        measure_bandwidth(settings, gpus=FakeGpus(GPU), python=python_that(tmp_path, body))
    assert measured_bandwidths(settings) == ()


def test_a_python_that_is_none_is_told(settings, tmp_path):
    with pytest.raises(EngineNotInstalled):
        measure_bandwidth(settings, gpus=FakeGpus(GPU), python=str(tmp_path / "nowhere"))


def test_a_worker_that_hangs_is_ended(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(bandwidth, "_TIMEOUT_S", 0.3)
    python = python_that(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 60")
    with pytest.raises(EngineError, match="longer than"):
        measure_bandwidth(settings, gpus=FakeGpus(GPU), python=python)
    pid = int((tmp_path / "pid").read_text("utf-8"))
    with pytest.raises(ProcessLookupError):
        bandwidth.os.kill(pid, 0)


def fake_torch(*, available=True, full=False):
    """The few names of torch that the worker uses; each copy takes 4 ms on this GPU's clock."""
    clock = SimpleNamespace(ms=0.0)

    class OutOfMemoryError(RuntimeError):
        pass

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at_ms = clock.ms

        def synchronize(self):
            pass

        def elapsed_time(self, other):
            return other.at_ms - self.at_ms

    class Buffer:
        def random_(self):
            return self

        def copy_(self, source):
            clock.ms += 4.0

    def empty(size, *, dtype, device):
        if full:
            raise OutOfMemoryError("CUDA out of memory.\nmore")
        return Buffer()

    return SimpleNamespace(
        __version__="2.11",
        uint8=0,
        empty=empty,
        empty_like=lambda _: Buffer(),
        cuda=SimpleNamespace(
            is_available=lambda: available,
            get_device_name=lambda _: "H100",
            Event=Event,
            OutOfMemoryError=OutOfMemoryError,
        ),
    )


def said(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_worker_counts_bytes_read_and_written(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", fake_torch())
    assert bandwidth_worker.main(["1000", "3"]) == 0
    answer = said(capsys)
    assert answer["moved_bytes"] == 2 * 1000 * bandwidth_worker.COPIES
    assert answer["seconds"] == pytest.approx([0.004 * bandwidth_worker.COPIES] * 3)


@pytest.mark.parametrize(
    ("torch", "code"),
    [(None, "no-torch"), (fake_torch(available=False), "no-cuda"), (fake_torch(full=True), "gpu-full")],
)
def test_the_worker_says_what_is_missing(monkeypatch, capsys, torch, code):
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert bandwidth_worker.main(["1000", "3"]) == 1
    assert said(capsys)["error"] == code


def on_an_h100(lane_facts):
    plan = a_plan(A)
    gpu = GpuUse(index=0, name="NVIDIA H100 80GB HBM3")
    record = a_record(plan, [a_pass(0, gpus=(gpu,))], [a_request(number) for number in range(4)])
    facts = replace(record.run.lanes[0], **lane_facts)
    return replace(record, run=replace(record.run, lanes=(facts,)))


def test_a_lanes_speed_is_held_against_what_was_measured_on_its_gpu():
    record = on_an_h100({"device": "cuda:0", "weight_bytes": 10**9})
    kept = Bandwidth(
        gpu_name="NVIDIA H100 80GB HBM3",
        gpu_uuid=None,
        bytes_per_s=2e12,
        low_bytes_per_s=2e12,
        high_bytes_per_s=2e12,
        n=25,
        buffer_bytes=GIB,
        driver=None,
        torch="2",
        measured_at=datetime(2026, 3, 1, tzinfo=UTC),
    )
    (utilisation,) = utilisations(results(record), record.passes, {kept.gpu_name: kept}.get)
    assert utilisation.decode_tok_per_s == pytest.approx(100)
    assert (utilisation.limit.decode_tok_per_s, utilisation.measured) == (2000, kept)
    assert utilisation.share == pytest.approx(0.05)
    assert "at 5% of what memory bandwidth allows (limit: 2000 tok/s" in utilisation_text(utilisation)
    (by_sheet,) = utilisations(results(record), record.passes, lambda _name: None)
    assert (by_sheet.limit.decode_tok_per_s, by_sheet.measured) == (3350, None)


@pytest.mark.parametrize(
    ("settings", "limit_tok_per_s"),
    [({"tp": 2}, 6700), ({"replicas": 2}, 3350), ({"tp": 2, "replicas": 1}, 6700)],
)
def test_a_request_has_the_bandwidth_of_the_gpus_that_compute_it(settings, limit_tok_per_s):
    record = on_an_h100({"device": "cuda:0,1", "weight_bytes": 10**9})
    (facts,), (each,) = record.run.lanes, record.passes
    facts = replace(facts, lane=replace(facts.lane, settings=EngineSettings(**settings)))
    gpus = (each.gpus[0], replace(each.gpus[0], index=1))
    record = replace(record, run=replace(record.run, lanes=(facts,)), passes=(replace(each, gpus=gpus),))
    (utilisation,) = utilisations(results(record), record.passes, lambda _name: None)
    assert utilisation.limit.decode_tok_per_s == limit_tok_per_s


@pytest.mark.parametrize(
    "facts",
    [
        {"device": None, "weight_bytes": 10**9},
        {"device": "cpu", "weight_bytes": 10**9},
        {"device": "cuda:1", "weight_bytes": 10**9},
        {"device": "cuda:0", "weight_bytes": None},
    ],
)
def test_without_its_facts_a_lane_has_no_limit(facts):
    record = on_an_h100(facts)
    assert utilisations(results(record), record.passes, lambda _name: None) == ()


def test_only_one_request_at_a_time_has_that_limit():
    record = on_an_h100({"device": "cuda:0", "weight_bytes": 10**9})
    busy = [replace(each, level=LoadLevel(concurrency=4)) for each in record.passes]
    record = replace(record, passes=tuple(busy))
    assert utilisations(results(record), record.passes, lambda _name: None) == ()
