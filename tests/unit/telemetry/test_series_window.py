import pytest

from core.telemetry.samples import EngineGpuMemory, EngineReading, Gap, GpuReading, MemorySource, Sample
from core.telemetry.series import NO_GPU, EngineWindow, GpuWindow, WindowStats, usage_of, window_stats

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


def gpu_window(index=0, board=None, **changes):
    return GpuWindow(
        **{
            "index": index,
            "name": "H100",
            "board": index if board is None else board,
            "peak_used_bytes": 30 * GIB,
            "mean_utilisation_ratio": 0.9,
            "mean_power_w": 400.0,
            "energy_j": 800.0,
            "energy_gap": None,
            "idle_power_w": 70.0,
            "peak_temperature_c": 50.0,
            "throttle_reasons": (),
            **changes,
        }
    )


def engine_window(name, busy=True):
    return EngineWindow(
        name=name,
        was_busy=busy,
        peak_gpu_bytes=20 * GIB,
        source=MemorySource.PROCESSES,
        peak_resident_bytes=2 * GIB,
        mean_cpu_ratio=0.5,
    )


def stats(*gpus, engines=None):
    return WindowStats(
        start_ns=0, end_ns=2_000_000_000, samples=20, gpus=gpus, engines=engines or (engine_window("awq"),)
    )


def test_a_request_keeps_energy_power_and_memory_of_its_gpu():
    window = usage_of(stats(gpu_window(0), gpu_window(1)), "awq", (0,))
    assert (window.energy_j, window.mean_power_w, window.idle_power_w) == (800.0, 400.0, 70.0)
    assert (window.peak_used_bytes, window.peak_gpu_bytes) == (30 * GIB, 20 * GIB)
    assert window.energy_above_idle_j == 800 - 2 * 70
    assert not window.shared


def test_an_engine_over_two_gpus_draws_from_both():
    assert usage_of(stats(gpu_window(0), gpu_window(1)), "awq", (0, 1)).energy_j == 1600.0


def test_instances_of_one_board_share_its_energy():
    window = usage_of(stats(gpu_window(0, board=0), gpu_window(1, board=0)), "awq", (0, 1))
    assert window.energy_j == 800.0
    assert window.peak_used_bytes == 60 * GIB


def test_other_lanes_at_work_make_the_window_shared():
    engines = (engine_window("awq"), engine_window("hf"), engine_window("idle", busy=False))
    window = usage_of(stats(gpu_window(), engines=engines), "awq", (0,))
    assert (window.others, window.shared) == (("hf",), True)


def test_what_one_gpu_can_t_tell_nobody_knows():
    window = usage_of(
        stats(gpu_window(0), gpu_window(1, energy_j=None, energy_gap="Not supported")), "awq", (0, 1)
    )
    assert (window.energy_j, window.energy_gap) == (None, "Not supported")
    assert window.energy_above_idle_j is None
    assert window.mean_power_w == 800.0


def test_on_the_cpu_there_is_memory_and_no_energy():
    window = usage_of(stats(), "awq", ())
    assert (window.energy_j, window.energy_gap, window.peak_used_bytes) == (None, None, None)
    assert (window.peak_resident_bytes, window.mean_cpu_ratio) == (2 * GIB, 0.5)


def test_a_lost_gpu_is_a_reason():
    assert usage_of(stats(), "awq", (0,)).energy_gap == NO_GPU


def test_idle_power_can_t_make_energy_negative():
    assert usage_of(stats(gpu_window(energy_j=100.0)), "awq", (0,)).energy_above_idle_j == 0.0
