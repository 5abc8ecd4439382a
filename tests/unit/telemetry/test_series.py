import csv
import io
from datetime import UTC, datetime, timedelta

from core.telemetry.samples import EngineGpuMemory, EngineReading, GpuReading, MemorySource, Sample
from core.telemetry.series import gpu_lines, host_lines, to_csv

GIB = 2**30
S = 1_000_000_000


def sample(at_s, used_gib=10.0, engine_gib=4.0, **more):
    share = EngineGpuMemory(gpu=0, used_bytes=int(engine_gib * GIB), source=MemorySource.PROCESSES)
    engine = EngineReading(name="awq", pid=1, gpu_memory=(share,), resident_bytes=2 * GIB, cpu_ratio=0.5)
    gpu = GpuReading(
        index=0,
        name="H100",
        total_bytes=80 * GIB,
        used_bytes=int(used_gib * GIB),
        power_w=100.0 * at_s,
        **more,
    )
    return Sample(at_ns=int(at_s * S), gpus=(gpu,), engines=(engine,))


def test_engines_and_others_add_up_to_what_is_used():
    lines = gpu_lines([sample(1), sample(2, used_gib=12)], 0)
    assert lines.engine_bytes == {"awq": (4 * GIB, 4 * GIB)}
    assert lines.others_bytes == (6 * GIB, 8 * GIB)
    assert lines.total_bytes == 80 * GIB


def test_an_engine_that_does_not_run_yet_has_no_memory():
    early = Sample(at_ns=1 * S, gpus=sample(1).gpus)
    assert gpu_lines([early, sample(2)], 0).engine_bytes["awq"] == (0, 4 * GIB)


def test_thinning_keeps_peaks_and_averages_power():
    samples = [sample(number / 10, used_gib=40 if number == 77 else 10) for number in range(200)]
    lines = gpu_lines(samples, 0, points=20)
    assert len(lines.at_ns) <= 23
    assert max(others for others in lines.others_bytes) == 36 * GIB
    assert lines.power_w == tuple(sorted(lines.power_w))
    assert len(set(lines.power_w)) > 15


def test_a_stretch_without_samples_is_a_gap():
    lines = gpu_lines([sample(1), sample(2), sample(9)], 0)
    assert lines.engine_bytes["awq"] == (4 * GIB, 4 * GIB, None, 4 * GIB)
    assert lines.power_w[2] is None
    assert list(lines.at_ns) == sorted(lines.at_ns)


def test_a_lost_gpu_is_a_gap_and_not_a_zero():
    lost = Sample(at_ns=2 * S, engines=sample(2).engines)
    lines = gpu_lines([sample(1), lost, sample(3)], 0)
    assert lines.engine_bytes["awq"][1] is None
    assert lines.others_bytes[1] is None
    assert lines.utilisation_ratio[1] is None


def test_the_host_s_lines_need_no_gpu():
    lines = host_lines([Sample(at_ns=1 * S, engines=sample(1).engines)])
    assert lines.engine_bytes == {"awq": (2 * GIB,)}
    assert lines.engine_cpu_ratio == {"awq": (0.5,)}
    assert lines.total_bytes is None


def test_without_samples_there_are_no_lines():
    assert gpu_lines([], 0).at_ns == ()
    assert host_lines([]).engine_bytes == {}


def test_csv_has_a_row_for_each_gpu_and_engine_and_leaves_unknown_empty():
    began = datetime(2026, 1, 1, tzinfo=UTC)
    text = to_csv([sample(1)], lambda at_ns: began + timedelta(seconds=at_ns / S))
    gpu, engine = csv.DictReader(io.StringIO(text))
    assert (gpu["what"], gpu["used_bytes"], gpu["temperature_c"]) == ("gpu", str(10 * GIB), "")
    assert (engine["name"], engine["used_bytes"], engine["source"]) == ("awq", str(4 * GIB), "processes")
    assert gpu["time"].startswith("2026-01-01T00:00:01")


def test_csv_of_an_engine_on_the_cpu():
    engine = EngineReading(name="hf", pid=1, resident_bytes=5, cpu_ratio=None)
    (row,) = csv.DictReader(
        io.StringIO(to_csv([Sample(at_ns=0, engines=(engine,))], lambda _: datetime(2026, 1, 1, tzinfo=UTC)))
    )
    assert (row["gpu"], row["resident_bytes"], row["cpu_ratio"]) == ("", "5", "")
