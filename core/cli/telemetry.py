"""`telemetry`: GPUs and engines, sampled for some seconds."""

import time
from collections.abc import Callable, Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table

from core import units
from core.codec import encode_plain
from core.engines.registry import Registry
from core.settings import load_settings
from core.telemetry.gpus import GpuReading
from core.telemetry.nvml import Nvml
from core.telemetry.sampler import Sampler
from core.telemetry.samples import EngineProcess, EngineReading, Sample
from core.telemetry.window import WindowStats

output = Console(highlight=False)

_REDRAW_S = 0.5


def telemetry(
    seconds: Annotated[float, typer.Option(help="How long to sample.", min=0.2, max=900)] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Sample memory, power and load of GPUs and engines; at the end what the whole time brought."""
    registry = Registry(load_settings())
    nvml = Nvml()
    sampler = Sampler(nvml, lambda: _running(registry))
    began_ns = time.perf_counter_ns()
    sampler.start()
    try:
        if as_json:
            time.sleep(seconds)
        else:
            _show(sampler, seconds)
        window = sampler.window(began_ns, time.perf_counter_ns())
    finally:
        sampler.close()
        nvml.close()
    if as_json:
        typer.echo(encode_plain({"samples": sampler.samples(), "window": window}))
    else:
        output.print(_summary(window))


def _running(registry: Registry) -> Sequence[EngineProcess]:
    """Every engine counts as busy: whoever asks for some seconds wants all of them closely sampled."""
    return [
        EngineProcess(name=entry.name, pid=entry.process.pid, gpus=entry.gpus, busy=True)
        for entry in registry.read().values()
        if entry.process is not None and entry.alive
    ]


def _show(sampler: Sampler, seconds: float) -> None:
    until_s = time.monotonic() + seconds
    with Live(console=output, auto_refresh=False) as live:
        while (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(_REDRAW_S, left_s))
            if samples := sampler.samples():
                live.update(_now(samples[-1]), refresh=True)


def _now(sample: Sample) -> Table:
    table = Table("", "memory", "load", "power", "temperature", "clock")
    for gpu in sample.gpus:
        table.add_row(*_gpu_row(gpu))
    for engine in sample.engines:
        table.add_row(*_engine_row(engine))
    if not sample.engines:
        table.add_row("no engine runs")
    if sample.problem:
        table.caption = f"{sample.problem.message}. {sample.problem.hint}"
    return table


def _gpu_row(gpu: GpuReading) -> tuple[str, ...]:
    return (
        f"GPU {gpu.index} {gpu.name}",
        f"{units.gib(gpu.used_bytes)} of {units.gib(gpu.total_bytes)}",
        _text(gpu.utilisation_ratio, lambda ratio: f"{ratio:.0%}"),
        _text(gpu.power_w, lambda watts: f"{watts:.0f} W"),
        _text(gpu.temperature_c, lambda celsius: f"{celsius:.0f} °C"),
        _text(gpu.sm_clock_hz, lambda hertz: f"{hertz / 1e6:.0f} MHz"),
    )


def _engine_row(engine: EngineReading) -> tuple[str, ...]:
    parts = [
        f"{units.gib(share.used_bytes)} on GPU {share.gpu} ({share.source or share.reason})"
        for share in engine.gpu_memory
    ]
    memory = ", ".join([*parts, f"{units.gib(engine.resident_bytes)} of host memory"])
    return (f"engine {engine.name}", memory, _text(engine.cpu_ratio, _cores), "", "", "")


def _summary(window: WindowStats) -> Table:
    title = f"{units.duration(window.duration_s)}, {window.samples} samples"
    table = Table("", "peak memory", "mean load", "mean power", "energy", "idle power", title=title)
    for gpu in window.gpus:
        table.add_row(
            f"GPU {gpu.index} {gpu.name}",
            units.gib(gpu.peak_used_bytes),
            _text(gpu.mean_utilisation_ratio, lambda ratio: f"{ratio:.0%}"),
            _text(gpu.mean_power_w, lambda watts: f"{watts:.0f} W"),
            _text(gpu.energy_j, lambda joules: f"{joules:.0f} J") if not gpu.energy_gap else gpu.energy_gap,
            _text(gpu.idle_power_w, lambda watts: f"{watts:.0f} W"),
        )
    if not window.engines:
        table.add_row("no engine runs")
    for engine in window.engines:
        peak = engine.peak_resident_bytes if engine.peak_gpu_bytes is None else engine.peak_gpu_bytes
        table.add_row(
            f"engine {engine.name}", units.gib(peak), _text(engine.mean_cpu_ratio, _cores), "", "", ""
        )
    return table


def _cores(ratio: float) -> str:
    return f"{ratio:.2f} cores"


def _text(value: float | None, write: Callable[[float], str]) -> str:
    return units.UNKNOWN if value is None else write(value)
