"""Commands about the state of this machine and its home: `doctor`, `bandwidth`, `telemetry` and `metrics`.

The first three tell which lanes can run here and what to do about the others, measure a GPU's memory
bandwidth by a copy, so that load tests show speeds as a share of it, and sample GPUs and engines for some
seconds.

`metrics` publishes the state of the home for Prometheus, read anew from files, locks and store each time. It
needs no running dashboard. What it publishes names lanes, but no texts and no people. It listens on loopback
unless told otherwise. Locks and processes are those that its own process can see, so in a container it has to
share the process namespace of the dashboard.
"""

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from rich.live import Live
from rich.table import Table
from rich.text import Text

import core
from core import units
from core.cli import context
from core.cli.terminal import terminal
from core.cluster.control import engines_of
from core.cluster.findings import examine_all
from core.codec import encode_plain
from core.config import load_lanes
from core.doctor.fitness import Diagnosis, Status
from core.domain.runs import HistoryFilter, RunKind
from core.engines.registry import EngineState, Registry, lease_count
from core.errors import InputError, LMDynoError
from core.i18n import N_, _
from core.jobs.registry import Jobs, JobState
from core.meter.protocol import is_running
from core.settings import Settings, load_settings
from core.store.history import History
from core.telemetry.nvml import Nvml
from core.telemetry.sampler import Sampler
from core.telemetry.samples import EngineProcess, EngineReading, GpuReading, Sample
from core.telemetry.series import WindowStats

if TYPE_CHECKING:
    from core.bench.bandwidth import Bandwidth

output = terminal()
progress = terminal(stderr=True)

_MARKS = {
    Status.OK: (N_("ok"), "green"),
    Status.INFO: (N_("info"), "blue"),
    Status.WARN: (N_("warning"), "yellow"),
    Status.FAIL: (N_("error"), "bold red"),
}


def doctor(
    as_json: context.AsJson = False,
) -> None:
    """Examine the machine and print a finding per line."""
    settings, registry = context.load()
    with progress.status(_("Importing the engines in child processes")):
        diagnosis = examine_all(settings, registry)
    if as_json:
        typer.echo(encode_plain(_document(diagnosis)))
    else:
        output.print(_table(diagnosis))
    if diagnosis.failed:
        raise typer.Exit(1)


def _document(diagnosis: Diagnosis) -> dict[str, object]:
    return {
        "findings": [
            {
                "status": finding.status,
                "what": finding.subject,
                "detail": finding.detail,
                "remedy": finding.remedy,
            }
            for finding in diagnosis.findings
        ],
        "lanes": [
            {
                "name": lane.name,
                "can_run": lane.can_run,
                "reason": lane.reason.message if lane.reason else None,
                "hint": lane.reason.hint if lane.reason else None,
            }
            for lane in diagnosis.lanes
        ],
        "machine": diagnosis.machine,
    }


def _table(diagnosis: Diagnosis) -> Table:
    table = Table("", _("Check"), _("Result"))
    for finding in diagnosis.findings:
        detail = _(finding.detail)
        if finding.remedy:
            detail += f"\n→ {_(finding.remedy)}"
        mark, style = _MARKS[finding.status]
        table.add_row(Text(_(mark), style), _(finding.subject), detail)
    return table


def bandwidth(
    gpu: Annotated[int, typer.Option(help=_("Index of the GPU, as `nvidia-smi` counts."), min=0)] = 0,
    as_json: context.AsJson = False,
) -> None:
    """Measure how fast a GPU copies within its memory, and remember it."""
    from core.bench.bandwidth import measure_bandwidth  # NumPy takes its time, and only this needs it

    with progress.status(_("Copying within the GPU's memory")):
        measured = measure_bandwidth(load_settings(), gpu_index=gpu)
    if as_json:
        typer.echo(encode_plain(measured))
    else:
        output.print("\n".join(_lines(measured)))


def _lines(measured: "Bandwidth") -> list[str]:
    from core.bench.bandwidth import bandwidth_of

    speeds = (measured.bytes_per_s, measured.low_bytes_per_s, measured.high_bytes_per_s)
    middle, low, high = (f"{speed / 1e9:,.0f}" for speed in speeds)
    lines = [
        _(
            "{gpu}: {speed} GB/s, median of {n} ({low} to {high})",
            gpu=measured.gpu_name,
            speed=middle,
            n=measured.n,
            low=low,
            high=high,
        )
    ]
    if sheet := bandwidth_of(measured.gpu_name):
        lines.append(_("Data sheet: {speed} GB/s", speed=f"{sheet / 1e9:,.0f}"))
    return lines


_REDRAW_S = 0.5


def telemetry(
    seconds: Annotated[float, typer.Option(help=_("Seconds to sample."), min=0.2, max=900)] = 5.0,
    as_json: context.AsJson = False,
) -> None:
    """Sample GPUs and engines for some seconds, and summarise."""
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
    """All running engines, marked as busy so that each is sampled closely."""
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
    table = Table("", _("Memory"), _("Load"), _("Power"), _("Temperature"), _("Clock"))
    for gpu in sample.gpus:
        table.add_row(*_gpu_row(gpu))
    for engine in sample.engines:
        table.add_row(*_engine_row(engine))
    if not sample.engines:
        table.add_row(_("No engine is running."))
    if sample.problem:
        table.caption = _("{message} {hint}", message=sample.problem.message, hint=sample.problem.hint)
    return table


def _gpu_row(gpu: GpuReading) -> tuple[str, ...]:
    return (
        f"GPU {gpu.index} {gpu.name}",
        _("{part} of {total}", part=units.gib(gpu.used_bytes), total=units.gib(gpu.total_bytes)),
        _text(gpu.utilisation_ratio, lambda ratio: f"{ratio:.0%}"),
        _text(gpu.power_w, lambda watts: f"{watts:.0f} W"),
        _text(gpu.temperature_c, lambda celsius: f"{celsius:.0f} °C"),
        _text(gpu.sm_clock_hz, lambda hertz: f"{hertz / 1e6:.0f} MHz"),
    )


def _engine_row(engine: EngineReading) -> tuple[str, ...]:
    parts = [
        f"{_('{size} on GPU {index}', size=units.gib(share.used_bytes), index=share.gpu)} "
        f"({_(share.source or share.reason or units.UNKNOWN)})"
        for share in engine.gpu_memory
    ]
    memory = ", ".join([*parts, _("{size} resident", size=units.gib(engine.resident_bytes))])
    return (_("engine {name}", name=engine.name), memory, _text(engine.cpu_ratio, _cores), "", "", "")


def _summary(window: WindowStats) -> Table:
    title = _("{time}, {n} samples", time=units.duration(window.duration_s), n=window.samples)
    table = Table(
        "",
        _("Peak memory"),
        _("Mean load"),
        _("Mean power"),
        _("Energy"),
        _("Idle power"),
        title=title,
    )
    for gpu in window.gpus:
        table.add_row(
            f"GPU {gpu.index} {gpu.name}",
            units.gib(gpu.peak_used_bytes),
            _text(gpu.mean_utilisation_ratio, lambda ratio: f"{ratio:.0%}"),
            _text(gpu.mean_power_w, lambda watts: f"{watts:.0f} W"),
            _text(gpu.energy_j, lambda joules: f"{joules:.0f} J")
            if not gpu.energy_gap
            else _(gpu.energy_gap),
            _text(gpu.idle_power_w, lambda watts: f"{watts:.0f} W"),
        )
    if not window.engines:
        table.add_row(_("No engine is running."))
    for engine in window.engines:
        peak = engine.peak_resident_bytes if engine.peak_gpu_bytes is None else engine.peak_gpu_bytes
        table.add_row(
            _("engine {name}", name=engine.name),
            units.gib(peak),
            _text(engine.mean_cpu_ratio, _cores),
            "",
            "",
            "",
        )
    return table


def _cores(ratio: float) -> str:
    return _("{n} cores", n=f"{ratio:.2f}")


def _text(value: float | None, write: Callable[[float], str]) -> str:
    return units.UNKNOWN if value is None else write(value)


def metrics(
    port: Annotated[
        int | None,
        typer.Option(
            help=_("Serve the metrics on this port. Without it, print them once."), min=1, max=65535
        ),
    ] = None,
    address: Annotated[
        str, typer.Option(help=_("Address to listen on. Everyone who reaches it can read the metrics."))
    ] = "127.0.0.1",
) -> None:
    """Print the metrics once, or serve them until Ctrl-C."""
    registry = CollectorRegistry()
    registry.register(HomeCollector(load_settings(), gpu=bool(Nvml().devices())))
    if port is None:
        typer.echo(generate_latest(registry), nl=False)
        return
    try:
        server, thread = start_http_server(port, address, registry)
    except OSError as exc:
        raise InputError(
            N_("Can't listen on {address}:{port}: {reason}", address=address, port=port, reason=exc.strerror),
            hint=N_("Choose another port or address."),
        ) from exc
    output.print(_("Serving the metrics on http://{address}:{port}/metrics", address=address, port=port))
    try:
        thread.join()
    except KeyboardInterrupt:
        server.shutdown()


class HomeCollector(Collector):
    """The metrics of one home. A part that can't be read is missing, and `lmdyno_part_readable` says so."""

    def __init__(self, settings: Settings, *, gpu: bool) -> None:
        self._settings = settings
        self._gpu = gpu
        self._parts: Mapping[str, Callable[[], list[Metric]]] = {
            "lanes": self._lanes,
            "store": self._stored,
            "jobs": self._jobs,
            "home": self._home,
        }

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("lmdyno", "The version of LMDyno.", {"version": core.__version__})
        readable = GaugeMetricFamily(
            "lmdyno_part_readable", "1 if this part of the state could be read.", labels=["part"]
        )
        for name, part in self._parts.items():
            try:
                yield from part()
                readable.add_metric([name], 1)
            except (LMDynoError, OSError):
                readable.add_metric([name], 0)
        yield readable

    def _lanes(self) -> list[Metric]:
        states = GaugeMetricFamily(
            "lmdyno_engine_state",
            "1 for the state that the lane's local engine is in.",
            labels=["lane", "engine", "state"],
        )
        ages = GaugeMetricFamily(
            "lmdyno_engine_state_seconds",
            "How long the lane's local engine has been in its state.",
            labels=["lane", "engine"],
        )
        leases = GaugeMetricFamily(
            "lmdyno_leases",
            "Leases of the lane's engine: one for each request, and one for each run that keeps it.",
            labels=["lane"],
        )
        registry = load_lanes(self._settings, gpu=self._gpu)
        lanes = registry.lanes
        for lane in lanes:
            if (held := lease_count(self._settings, lane.name)) is not None:
                leases.add_metric([lane.name], held)
        local = [lane for lane in lanes if lane.is_local]
        for status in engines_of(self._settings, local, registry.cluster, persistent=True).statuses():
            engine = [status.name, str(status.lane.kind)]
            for state in EngineState:
                states.add_metric([*engine, str(state)], state is status.state)
            if status.pid is not None:
                ages.add_metric(engine, status.elapsed_s)
        return [states, ages, leases]

    def _stored(self) -> list[Metric]:
        stored = GaugeMetricFamily(
            "lmdyno_stored_entries", "Entries of the history, without deleted ones.", labels=["kind"]
        )
        with closing(History(self._settings.database_url)) as history:
            for kind in RunKind:
                stored.add_metric([str(kind)], history.count(HistoryFilter(kind=kind)))
        return [stored]

    def _jobs(self) -> list[Metric]:
        jobs = GaugeMetricFamily("lmdyno_jobs", "Background jobs of this home by state.", labels=["state"])
        counts = Counter(status.state for status in Jobs(self._settings).statuses())
        for state in JobState:
            jobs.add_metric([str(state)], counts[state])
        return [jobs]

    def _home(self) -> list[Metric]:
        free_bytes = shutil.disk_usage(self._settings.home).free
        return [
            GaugeMetricFamily(
                "lmdyno_meter_up",
                "1 while the meter of a dashboard runs.",
                is_running(self._settings),
            ),
            GaugeMetricFamily("lmdyno_home_free_bytes", "Free space on the home's disk.", free_bytes),
        ]
