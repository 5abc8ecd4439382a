"""Samples recorded on an H100 while hf, turbomind and awq were loaded and asked, drawn as the page does."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from core.charts.memory import live_chart
from core.codec import decode
from core.telemetry.samples import Sample
from core.telemetry.series import gpu_lines


@dataclass(frozen=True, slots=True)
class Recording:
    samples: tuple[Sample, ...]


@pytest.fixture(scope="module")
def samples():
    file = Path(__file__).parents[2] / "data" / "h100_samples.json"
    return decode(Recording, file.read_bytes()).samples


@pytest.fixture(scope="module")
def lines(samples):
    return gpu_lines(samples, 0)


def test_the_engines_come_one_after_another_and_stay(lines):
    first_bytes = {
        name: next(place for place, used in enumerate(values) if used)
        for name, values in lines.engine_bytes.items()
    }
    assert sorted(first_bytes, key=first_bytes.get) == ["hf", "turbomind", "awq"]
    assert all(values[-1] > 4e9 for values in lines.engine_bytes.values())


def test_what_engines_hold_is_what_the_device_says(samples, lines):
    last = samples[-1].gpu(0)
    attributed = sum(values[-1] for values in lines.engine_bytes.values())
    assert attributed == pytest.approx(last.used_bytes, rel=0.03)


def test_power_rises_under_load_and_energy_never_falls(samples, lines):
    power = [value for value in lines.power_w if value is not None]
    assert max(power) > min(power) + 50
    energy = [sample.gpu(0).energy_j for sample in samples]
    assert energy == sorted(energy)


def test_the_chart_shows_every_engine_and_the_gpus_load(lines):
    figure = live_chart(
        lines,
        (),
        colors=dict.fromkeys(lines.engine_bytes, "#123456"),
        wall=lambda at_ns: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(microseconds=at_ns / 1000),
        gpu=True,
    )
    assert {"hf", "turbomind", "awq"} <= {trace.name for trace in figure.data if trace.stackgroup}
    power = next(trace for trace in figure.data if trace.name == "Power")
    assert len([value for value in power.y if value is not None]) > 50
