from core.telemetry.samples import MemorySource
from core.telemetry.usage import NO_GPU, usage_of
from core.telemetry.window import EngineWindow, GpuWindow, WindowStats

GIB = 2**30


def gpu(index=0, board=None, **changes):
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


def engine(name, busy=True):
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
        start_ns=0, end_ns=2_000_000_000, samples=20, gpus=gpus, engines=engines or (engine("awq"),)
    )


def test_a_request_keeps_energy_power_and_memory_of_its_gpu():
    window = usage_of(stats(gpu(0), gpu(1)), "awq", (0,))
    assert (window.energy_j, window.mean_power_w, window.idle_power_w) == (800.0, 400.0, 70.0)
    assert (window.peak_used_bytes, window.peak_gpu_bytes) == (30 * GIB, 20 * GIB)
    assert window.energy_above_idle_j == 800 - 2 * 70
    assert not window.shared


def test_an_engine_over_two_gpus_draws_from_both():
    assert usage_of(stats(gpu(0), gpu(1)), "awq", (0, 1)).energy_j == 1600.0


def test_instances_of_one_board_share_its_energy():
    window = usage_of(stats(gpu(0, board=0), gpu(1, board=0)), "awq", (0, 1))
    assert window.energy_j == 800.0
    assert window.peak_used_bytes == 60 * GIB


def test_other_lanes_at_work_make_the_window_shared():
    engines = (engine("awq"), engine("hf"), engine("idle", busy=False))
    window = usage_of(stats(gpu(), engines=engines), "awq", (0,))
    assert (window.others, window.shared) == (("hf",), True)


def test_what_one_gpu_can_t_tell_nobody_knows():
    window = usage_of(stats(gpu(0), gpu(1, energy_j=None, energy_gap="Not supported")), "awq", (0, 1))
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
    assert usage_of(stats(gpu(energy_j=100.0)), "awq", (0,)).energy_above_idle_j == 0.0
