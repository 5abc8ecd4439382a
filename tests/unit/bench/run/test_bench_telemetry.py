"""What a pass says of GPUs: those of the lanes that it measures, over all of a lane's GPUs."""

import asyncio

import pytest

from core.bench.run import telemetry
from core.bench.run.telemetry import PassTelemetry
from core.domain.specs import EngineKind
from core.domain.turns import utc_now
from core.engines.registry import EngineEntry, EngineState, Registry
from core.telemetry.gpus import GpuReading, ProcessMemory
from core.telemetry.processes import this_process
from tests.unit.engines.engine_stand_ins import lane_in, settings_in

GIB = 2**30
ME = this_process()
JOULES_A_READING = (100.0, 10.0)
"""What each GPU's counter grows by from one reading to the next."""


class TwoGpus:
    """Sensors of two GPUs; this process holds 3 GiB on the first and 4 GiB on the second."""

    def __init__(self):
        self._readings = 0

    def readings(self):
        self._readings += 1
        return tuple(
            GpuReading(
                index=index,
                name="GPU",
                board=index,
                used_bytes=10 * GIB,
                energy_j=self._readings * joules,
                processes=(ProcessMemory(pid=ME.pid, used_bytes=(3 + index) * GIB),),
            )
            for index, joules in enumerate(JOULES_A_READING)
        )

    def problem(self):
        return None


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Telemetry of three lanes: one on each GPU, and one over both."""
    monkeypatch.setattr(telemetry, "Nvml", TwoGpus)
    home = settings_in(tmp_path)
    with Registry(home).changing() as engines:
        for name, gpus in (("first", (0,)), ("second", (1,)), ("both", (0, 1))):
            engines[name] = EngineEntry(
                lane=lane_in(tmp_path, name, EngineKind.TURBOMIND),
                state=EngineState.HEALTHY,
                since=utc_now(),
                owner=ME,
                worker=ME,
                process=ME,
                gpus=gpus,
                log_file="log",
            )
    return PassTelemetry(home, ["first", "second", "both"])


def use_of(passes, lanes):
    async def measure():
        await passes.mark()
        start_ns = passes._sampler.samples()[-1].at_ns
        await passes.mark()
        end_ns = passes._sampler.samples()[-1].at_ns
        return await passes.use(lanes, start_ns, end_ns)

    return asyncio.run(measure())


@pytest.mark.parametrize(
    ("lanes", "energy_j"),
    [
        (["first"], {0: 100.0}),
        (["second"], {1: 10.0}),
        (["both"], {0: 100.0, 1: 10.0}),
        (["first", "second"], {0: 100.0, 1: 10.0}),
    ],
)
def test_a_pass_has_the_energy_of_the_gpus_of_its_own_lanes(started, lanes, energy_j):
    gpus, _ = use_of(started, lanes)
    assert {gpu.index: gpu.energy_j for gpu in gpus} == energy_j


def test_an_engines_memory_is_added_up_over_its_gpus(started):
    _, engines = use_of(started, ["both"])
    assert {use.lane: use.peak_gpu_bytes for use in engines}["both"] == 7 * GIB
