import pytest

from core.telemetry.gpus import Gap, GpuReading
from core.telemetry.samples import EngineGpuMemory, EngineReading, MemorySource, Sample
from core.telemetry.window import window_stats

S = 1_000_000_000
GIB = 2**30


def sample(at_s, *, power_w=100.0, energy_j=None, used=0, utilisation=0.0, engines=(), gaps=()):
    reading = GpuReading(
        index=0,
        name="H100",
        used_bytes=used,
        utilisation_ratio=utilisation,
        power_w=power_w,
        energy_j=energy_j,
        gaps=gaps,
    )
    return Sample(at_ns=int(at_s * S), gpus=(reading,), engines=engines)


def engine(name="hf", *, busy=True, used=None, source=MemorySource.PROCESSES, resident=None, cpu=None):
    shares = () if used is None else (EngineGpuMemory(gpu=0, used_bytes=used, source=source),)
    return EngineReading(
        name=name, pid=1, busy=busy, gpu_memory=shares, resident_bytes=resident, cpu_ratio=cpu
    )


def test_energy_is_read_off_between_the_samples_around_the_timestamps():
    samples = [sample(t, energy_j=1000 + 100 * t) for t in range(6)]
    gpu = window_stats(samples, int(1.5 * S), int(3.25 * S)).gpus[0]
    assert gpu.energy_j == pytest.approx(175.0)
    assert gpu.energy_gap is None


def test_a_window_between_two_samples_has_energy_but_no_peak():
    samples = [sample(0, energy_j=0.0), sample(1, energy_j=100.0)]
    stats = window_stats(samples, int(0.2 * S), int(0.8 * S))
    assert stats.samples == 0
    assert stats.gpus[0].energy_j == pytest.approx(60.0)
    assert stats.gpus[0].peak_used_bytes is None


def test_peaks_and_means_are_those_of_the_window_alone():
    samples = [
        sample(0, used=50 * GIB, power_w=900),
        sample(1, used=20 * GIB, power_w=200, utilisation=0.5),
        sample(2, used=30 * GIB, power_w=400, utilisation=1.0),
        sample(3, used=60 * GIB, power_w=900),
    ]
    gpu = window_stats(samples, 1 * S, 2 * S).gpus[0]
    assert (gpu.peak_used_bytes, gpu.mean_power_w, gpu.mean_utilisation_ratio) == (30 * GIB, 300, 0.75)


def test_idle_power_is_taken_before_the_window_while_nothing_ran():
    samples = [
        sample(0, power_w=70),
        sample(1, power_w=72),
        sample(2, power_w=74),
        sample(3, power_w=600, utilisation=0.9),
        sample(4, power_w=500, engines=(engine(busy=True),)),
        sample(5, power_w=650),
        sample(6, power_w=60),
    ]
    assert window_stats(samples, 5 * S, 6 * S).gpus[0].idle_power_w == 72
    assert window_stats(samples, 0, 1 * S).gpus[0].idle_power_w is None


@pytest.mark.parametrize(
    ("samples", "gap"),
    [
        ([sample(1, energy_j=5.0)], "The samples don't cover the whole time."),
        ([sample(1, energy_j=5.0), sample(9, energy_j=6.0)], "The samples don't cover the whole time."),
        (
            [
                sample(0, energy_j=9000.0),
                sample(1, energy_j=9500.0),
                sample(2, energy_j=3.0),
                sample(3, energy_j=9999.0),
            ],
            "The energy counter was reset meanwhile.",
        ),
        (
            [sample(t, energy_j=9000.0) for t in range(4)],
            "The energy counter wasn't updated meanwhile.",
        ),
        (
            [sample(1, gaps=(Gap("energy_j", "Not supported by this GPU or driver."),)), sample(3)],
            "Not supported by this GPU or driver.",
        ),
    ],
)
def test_energy_that_can_t_be_told_has_a_reason(samples, gap):
    gpu = window_stats(samples, S, int(2.5 * S)).gpus[0]
    assert (gpu.energy_j, gpu.energy_gap) == (None, gap)


def test_engines_have_their_own_peaks_and_the_busy_ones_are_named():
    samples = [
        sample(1, engines=(engine("hf", used=4 * GIB, resident=100, cpu=1.0), engine("tm", busy=False))),
        sample(2, engines=(engine("hf", used=5 * GIB, resident=90, cpu=2.0), engine("tm", busy=False))),
    ]
    stats = window_stats(samples, S, 2 * S)
    hf, tm = stats.engines
    assert (hf.peak_gpu_bytes, hf.source, hf.peak_resident_bytes, hf.mean_cpu_ratio) == (
        5 * GIB,
        MemorySource.PROCESSES,
        100,
        1.5,
    )
    assert (tm.peak_gpu_bytes, tm.source, tm.mean_cpu_ratio) == (None, None, None)
    assert stats.busy_engines == ("hf",)
    assert stats.duration_s == 1.0


def test_a_share_found_by_difference_stays_labelled():
    samples = [sample(1, engines=(engine(used=GIB, source=MemorySource.DIFFERENCE),))]
    assert window_stats(samples, 0, 2 * S).engines[0].source is MemorySource.DIFFERENCE


def test_a_window_without_samples_is_empty_and_not_zero():
    stats = window_stats([], 0, S)
    assert (stats.samples, stats.gpus, stats.engines) == (0, (), ())
