"""The sampler, and the memory that it attributes to engines."""

import os
import subprocess
import sys
import time

import pytest

from core.telemetry.nvml import Nvml, describe_machine
from core.telemetry.processes import EngineLoad
from core.telemetry.sampler import NO_TOTAL, NOT_SEEN_BEFORE, Attribution, Sampler
from core.telemetry.samples import EngineProcess, GpuReading, MemorySource, ProcessMemory
from tests.unit.telemetry.fake_nvml import FakeGpu, FakeNvml

GIB = 2**30
HF = EngineProcess(name="hf", pid=10)
TURBOMIND = EngineProcess(name="turbomind", pid=20)
AWQ = EngineProcess(name="awq", pid=30)

S = 1_000_000_000


def gpu(used_gib, processes=(), index=0):
    listed = (
        None
        if processes is None
        else tuple(
            ProcessMemory(pid=pid, used_bytes=size and int(size * GIB))
            for pid, size in dict(processes).items()
        )
    )
    return GpuReading(
        index=index,
        name="H100",
        used_bytes=None if used_gib is None else int(used_gib * GIB),
        processes=listed,
    )


def trees(*engines):
    return {engine: frozenset({engine.pid, engine.pid + 1}) for engine in engines}


def shares(attribution, reading, *engines):
    found = attribution.attribute((reading,), trees(*engines))
    return {
        name: [(share.used_bytes and share.used_bytes / GIB, share.source) for share in parts]
        for name, parts in found.items()
    }


def test_the_driver_s_figures_are_added_up_over_the_process_tree():
    reading = gpu(30, {20: 1, 21: 19, 999: 8})
    assert shares(Attribution(), reading, TURBOMIND) == {"turbomind": [(20, MemorySource.PROCESSES)]}


def test_where_the_driver_names_our_processes_an_engine_it_omits_has_no_memory():
    attribution = Attribution()
    shares(attribution, gpu(20, {20: 19}), TURBOMIND)
    found = shares(attribution, gpu(30, {20: 19}), TURBOMIND, HF)
    assert found == {"turbomind": [(19, MemorySource.PROCESSES)], "hf": []}


def test_without_process_figures_an_engine_has_what_the_gpu_grew_by():
    attribution = Attribution()
    shares(attribution, gpu(2))
    shares(attribution, gpu(2), TURBOMIND)
    assert shares(attribution, gpu(22), TURBOMIND) == {"turbomind": [(20, MemorySource.DIFFERENCE)]}


def test_each_engine_keeps_its_own_growth_when_another_is_loaded_after_it():
    attribution = Attribution()
    for reading, engines in (
        (gpu(2), ()),
        (gpu(2), (HF,)),
        (gpu(6), (HF,)),
        (gpu(6), (HF, TURBOMIND)),
        (gpu(36), (HF, TURBOMIND)),
    ):
        found = shares(attribution, reading, *engines)
    assert found == {"hf": [(4, MemorySource.DIFFERENCE)], "turbomind": [(30, MemorySource.DIFFERENCE)]}


def test_stopping_an_earlier_engine_leaves_the_later_ones_their_share():
    attribution = Attribution()
    for reading, engines in (
        (gpu(2), ()),
        (gpu(2), (HF,)),
        (gpu(6), (HF,)),
        (gpu(6), (HF, TURBOMIND)),
        (gpu(36), (HF, TURBOMIND)),
        (gpu(32), (TURBOMIND,)),
        (gpu(32), (TURBOMIND, AWQ)),
        (gpu(37), (TURBOMIND, AWQ)),
    ):
        found = shares(attribution, reading, *engines)
    assert found == {"turbomind": [(30, MemorySource.DIFFERENCE)], "awq": [(5, MemorySource.DIFFERENCE)]}


def test_a_restarted_engine_begins_anew():
    attribution = Attribution()
    again = EngineProcess(name="hf", pid=50)
    for reading, engines in ((gpu(2), ()), (gpu(2), (HF,)), (gpu(6), (HF,)), (gpu(2), (again,))):
        shares(attribution, reading, *engines)
    assert shares(attribution, gpu(5), again) == {"hf": [(3, MemorySource.DIFFERENCE)]}


def test_an_engine_that_was_there_before_measuring_has_an_unknown_share():
    attribution = Attribution()
    found = attribution.attribute((gpu(30, None),), trees(TURBOMIND))["turbomind"]
    assert found[0].used_bytes is None
    assert found[0].reason == NOT_SEEN_BEFORE


def test_processes_without_sizes_fall_back_to_the_difference():
    attribution = Attribution()
    shares(attribution, gpu(1, {4: None}))
    shares(attribution, gpu(1, {4: None}), HF)
    assert shares(attribution, gpu(5, {10: None}), HF) == {"hf": [(4, MemorySource.DIFFERENCE)]}


def test_a_gpu_that_stops_answering_gives_a_reason_and_then_the_share_again():
    attribution = Attribution()
    shares(attribution, gpu(2))
    shares(attribution, gpu(2), HF)
    gap = attribution.attribute((gpu(None, None),), trees(HF))["hf"][0]
    assert (gap.used_bytes, gap.reason) == (None, NO_TOTAL)
    assert shares(attribution, gpu(6), HF) == {"hf": [(4, MemorySource.DIFFERENCE)]}


def test_an_engine_placed_elsewhere_gets_none_of_this_gpu_s_growth():
    attribution = Attribution()
    on_cpu = EngineProcess(name="cpu", pid=10, gpus=())
    on_second = EngineProcess(name="second", pid=20, gpus=(1,))
    both = (gpu(2), gpu(2, index=1))
    attribution.attribute(both, trees())
    attribution.attribute(both, trees(on_cpu, on_second))
    found = attribution.attribute((gpu(9), gpu(5, index=1)), trees(on_cpu, on_second))
    assert found["cpu"] == ()
    assert [(share.gpu, share.used_bytes) for share in found["second"]] == [(1, 3 * GIB)]


class Stage:
    """A clock, the engines that run, and a GPU that draws 100 W."""

    def __init__(self):
        self.now_ns = 10 * S
        self.engines = ()
        self.gpu = FakeGpu(millijoules=0)

    def now(self):
        self.now_ns += 1
        self.gpu.millijoules = self.now_ns // 10_000  # 100 W
        return self.now_ns


@pytest.fixture
def stage():
    return Stage()


@pytest.fixture
def sampler(stage):
    sampler = Sampler(Nvml(FakeNvml(stage.gpu)), lambda: stage.engines, now_ns=stage.now)
    yield sampler
    sampler.close()


def wait_for(condition, timeout_s=10):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def test_a_sample_holds_gpus_and_engines_at_one_moment(stage, sampler):
    stage.engines = (EngineProcess(name="hf", pid=os.getpid(), busy=True),)
    sample = sampler.sample()
    assert sample.gpus[0].used_bytes == stage.gpu.used
    assert sample.engines[0].resident_bytes > 1_000_000
    assert sample.busy
    assert sample.problem is None
    assert sampler.samples() == (sample,)


def test_a_window_that_ends_now_is_closed_with_one_more_sample(stage, sampler):
    sampler.sample()
    start_ns = stage.now()
    stage.now_ns += S
    end_ns = stage.now()
    stats = sampler.window(start_ns, end_ns)
    assert len(sampler.samples()) == 2
    assert stats.samples == 0
    assert stats.gpus[0].energy_j == pytest.approx(100.0)
    assert stats.gpus[0].peak_used_bytes is None
    sampler.window(start_ns, end_ns)
    assert len(sampler.samples()) == 2, "the window is covered now"


def test_only_later_samples_are_given_out_again(stage, sampler):
    first, second = sampler.sample(), sampler.sample()
    assert sampler.samples(since_ns=first.at_ns) == (second,)
    assert sampler.samples(since_ns=second.at_ns) == ()


def test_what_is_older_than_a_quarter_of_an_hour_is_dropped(stage, sampler):
    sampler.sample()
    stage.now_ns += 600 * S
    kept = sampler.sample()
    stage.now_ns += 600 * S
    newest = sampler.sample()
    assert sampler.samples() == (kept, newest)


def test_a_busy_engine_is_sampled_often_and_an_idle_machine_seldom(stage):
    sampler = Sampler(Nvml(FakeNvml(stage.gpu)), lambda: stage.engines)
    sampler.start()
    sampler.start()
    try:
        wait_for(sampler.samples)
        stage.engines = (EngineProcess(name="hf", pid=os.getpid(), busy=True),)
        wait_for(lambda: len(sampler.samples()) >= 8)
        busy = [sample for sample in sampler.samples() if sample.busy]
        assert (busy[-1].at_ns - busy[0].at_ns) / (len(busy) - 1) < 0.9 * S
        stage.engines = ()
        wait_for(lambda: not sampler.samples()[-1].busy)
        last_ns = sampler.samples()[-1].at_ns
        wait_for(lambda: sampler.samples()[-1].at_ns > last_ns)
        assert sampler.samples(since_ns=last_ns)[0].at_ns - last_ns >= 0.99 * S
    finally:
        sampler.close()
    taken = len(sampler.samples())
    time.sleep(0.3)
    assert len(sampler.samples()) == taken, "a closed sampler samples no more"


def test_without_a_driver_engines_are_still_measured():
    engines = (EngineProcess(name="hf", pid=os.getpid()),)
    library = FakeNvml()
    library.init_error = library.NVML_ERROR_LIBRARY_NOT_FOUND
    sample = Sampler(Nvml(library), lambda: engines).sample()
    assert sample.gpus == ()
    assert sample.problem.code == "no-nvidia-driver"
    assert sample.engines[0].resident_bytes > 0
    assert sample.engines[0].gpu_memory == ()


def test_an_engine_that_is_gone_has_unknown_figures_and_is_dropped_when_it_is_no_longer_named(stage, sampler):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    stage.engines = (EngineProcess(name="hf", pid=process.pid),)
    assert sampler.sample().engines[0].resident_bytes is None
    stage.engines = ()
    assert sampler.sample().engines == ()


def test_the_load_of_an_engine_includes_its_children():
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        try:
            load = EngineLoad(process.pid)
            now_ns = 0

            def is_busy():
                nonlocal now_ns
                now_ns = time.perf_counter_ns()
                load.update(now_ns)
                return len(load.pids) == 2 and (load.cpu_ratio or 0) > 0.1

            wait_for(is_busy, timeout_s=30)
            assert load.resident_bytes > 1_000_000
        finally:
            for pid in sorted(load.pids | {process.pid}, reverse=True):
                os.kill(pid, 9)


def test_the_process_tree_is_listed_seldom_once_the_engine_is_old():
    listings = []

    def list_tree(pid):
        listings.append(pid)
        return (pid,)

    load = EngineLoad(os.getpid(), list_tree=list_tree)
    for second in range(1, 301):
        load.update(second * S)
    assert 60 <= len(listings) <= 80


def test_the_machine_names_its_gpus_with_their_memory():
    nvml = Nvml(FakeNvml(FakeGpu(), FakeGpu(name="NVIDIA A10")))
    machine = describe_machine(nvml)
    assert machine.gpus == ("NVIDIA H100 80GB HBM3, 80.00 GiB", "NVIDIA A10, 80.00 GiB")
    assert machine.driver == "580.95.05"
    assert machine.cores >= 1
    assert machine.memory_bytes > 2**28


def test_a_machine_without_a_driver_is_described_all_the_same():
    library = FakeNvml()
    library.init_error = library.NVML_ERROR_LIBRARY_NOT_FOUND
    machine = describe_machine(Nvml(library))
    assert (machine.gpus, machine.driver) == ((), None)
    assert machine.host
    assert machine.python.startswith("3.")
