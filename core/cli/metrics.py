"""`lmdyno metrics`: the state of this home for Prometheus, read anew from files, locks and store each time.

It needs no running dashboard. What it publishes names lanes, but no texts and no people. It listens on
loopback unless told otherwise. Locks and processes are those that its own process can see, so in a container
it has to share the process namespace of the dashboard.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Annotated

import typer
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

import core
from core.cli.terminal import terminal
from core.cluster.control import engines_of
from core.config import load_lanes
from core.domain.runs import HistoryFilter, RunKind
from core.engines.registry import EngineState, lease_count
from core.errors import InputError, LMDynoError
from core.i18n import N_, _
from core.jobs.registry import Jobs, JobState
from core.meter.protocol import is_running
from core.settings import Settings, load_settings
from core.store.history import History
from core.telemetry.nvml import Nvml

console = terminal()


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
    console.print(_("Serving the metrics on http://{address}:{port}/metrics", address=address, port=port))
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
