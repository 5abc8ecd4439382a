"""`engines`: start, stop and look at the engines of the lanes; `nodes`: where they can run beside here."""

from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from core import units
from core.cli import context
from core.cli.terminal import error_text, printable, terminal
from core.cluster.control import EngineControl, engines_of
from core.cluster.link import ClusterLink
from core.codec import encode_plain
from core.config.lanes import ADD_CLUSTER
from core.domain.turns import ErrorInfo
from core.engines.manager import EngineStatus
from core.engines.registry import STATE_NAMES, EngineState
from core.engines.resolve import ClusterSnapshot, Node, read_snapshot, trouble
from core.engines.supervisor import STARTING
from core.errors import EngineError, InputError
from core.i18n import N_, _
from core.telemetry.nvml import Nvml

app = typer.Typer(no_args_is_help=True)
console = terminal()

Name = Annotated[str, typer.Argument(help=_("Name of the lane."))]


def _manager() -> EngineControl:
    settings, registry = context.load()
    local = [lane for lane in registry.lanes if lane.is_local]
    return engines_of(settings, local, registry.cluster, gpu=Nvml(), persistent=True, wait=True)


@app.command("list", help=_("List all engines with state, process, address, and uptime."))
def list_engines(as_json: context.AsJson = False) -> None:
    statuses = _manager().statuses()
    if as_json:
        typer.echo(encode_plain([_facts(status) for status in statuses]))
        return
    on_nodes = any(status.node for status in statuses)
    table = Table(_("Lane"), _("Engine"))
    for heading in (*([_("Node")] if on_nodes else []), _("State"), _("PID"), _("Address")):
        table.add_column(heading)
    table.add_column(_("Uptime"))
    table.add_column(_("Version"))
    for status in statuses:
        table.add_row(
            status.name,
            status.lane.kind,
            *([status.node or units.UNKNOWN] if on_nodes else []),
            _(STATE_NAMES[status.state]),
            str(status.pid or units.UNKNOWN),
            status.url or units.UNKNOWN,
            units.duration(status.elapsed_s),
            status.version or units.UNKNOWN,
        )
    console.print(table)
    for status in statuses:
        if status.error:
            console.print(Text(f"{status.name}: ").append_text(error_text(status.error)), soft_wrap=True)


@app.command(help=_("Start a lane's engine, and wait until it is ready. It runs until `engines stop`."))
def start(name: Name, as_json: context.AsJson = False) -> None:
    manager = _manager()
    timeout_s = manager.status(name).lane.settings.start_timeout_s
    try:
        manager.ensure(name)
        with console.status(stage_text(name)) as spinner:
            status = manager.wait_until_healthy(
                name, timeout_s, on_progress=lambda now: spinner.update(stage_text(name, now))
            )
    except KeyboardInterrupt:
        manager.stop(name, force=True)
        raise typer.Exit(1) from None
    except EngineError as error:
        if as_json:
            typer.echo(encode_plain(_outcome(name, ErrorInfo.of(error))))
            raise typer.Exit(1) from None
        raise
    if as_json:
        typer.echo(encode_plain(_facts(status)))
    else:
        console.print(_("{lane} is ready at {url}", lane=name, url=status.url))


@app.command(help=_("Stop a lane's engine. Refuses to stop an engine that is answering, unless forced."))
def stop(
    name: Annotated[str | None, typer.Argument(help=_("Name of the lane."))] = None,
    every: Annotated[bool, typer.Option("--all", help=_("Stop all engines."))] = False,
    force: Annotated[
        bool, typer.Option("--force", help=_("Stop the engine even while it answers a request."))
    ] = False,
    as_json: context.AsJson = False,
) -> None:
    if (name is None) != every:
        raise InputError(N_("No engine is named."), hint=N_("Name one lane, or use --all."))
    manager = _manager()
    names = [name] if name is not None else [status.name for status in manager.statuses() if _runs(status)]
    outcomes = []
    for lane in names:
        error = _stop(manager, lane, force=force)
        outcomes.append(_outcome(lane, error))
        if not as_json:
            _tell(_("{lane} stopped", lane=lane), error)
    if as_json:
        typer.echo(encode_plain(outcomes))
    if any(outcome["error"] for outcome in outcomes):
        raise typer.Exit(1)


def _runs(status: EngineStatus) -> bool:
    """Whether there is something to stop; a start that still waits for its device has no process yet."""
    return status.pid is not None or status.state is EngineState.STARTING


def _stop(manager: EngineControl, name: str, *, force: bool) -> ErrorInfo | None:
    """Stop one engine; print why it failed instead of raising, so that the others are stopped too.

    Raises ConfigError for a name that is no lane's.
    """
    manager.status(name)
    try:
        manager.stop(name, force=force)
    except EngineError as error:
        return ErrorInfo.of(error)
    return None


def _tell(done: str, error: ErrorInfo | None) -> None:
    if error is None:
        console.print(done)
    else:
        typer.echo(printable(f"{_(error.message)}\n{_(error.hint)}".rstrip()), err=True)


@app.command(help=_("Show the end of an engine's log."))
def logs(
    name: Name,
    lines: Annotated[int, typer.Option(min=1, help=_("Number of lines."))] = 40,
    as_json: context.AsJson = False,
) -> None:
    manager = _manager()
    manager.status(name)  # raises for a name that is no lane's
    file = manager.log_file(name)
    last = manager.log_tail(name, lines).splitlines()
    if as_json:
        path = str(file) if file else None
        typer.echo(encode_plain({"lane": name, "log_file": path, "lines": last}))
    else:
        typer.echo(printable("\n".join(last)))


def _outcome(lane: str, error: ErrorInfo | None) -> dict[str, Any]:
    return {"lane": lane, "error": error}


def _facts(status: EngineStatus) -> dict[str, Any]:
    return {
        "lane": status.name,
        "kind": status.lane.kind,
        "state": status.state,
        "pid": status.pid,
        "url": status.url,
        "version": status.version,
        "device": status.device,
        "node": status.node,
        "elapsed_s": status.elapsed_s,
        "in_use": status.in_use,
        "error": status.error,
    }


def nodes(as_json: context.AsJson = False) -> None:
    """List the nodes with what is free and what runs there."""
    settings, registry = context.load()
    if registry.cluster is None:
        raise InputError(
            N_("lanes.toml has no cluster."),
            hint=ADD_CLUSTER,
        )
    link = ClusterLink(settings, registry.cluster)
    try:
        link.await_reports()
        snapshot = read_snapshot(settings)
        problem = trouble(snapshot)
    finally:
        link.let_go()
    known = sorted(snapshot.nodes, key=lambda node: node.name) if snapshot else []
    if as_json:
        facts = [_node_facts(snapshot, node) for node in known] if snapshot else []
        typer.echo(encode_plain({"address": registry.cluster.address, "error": problem, "nodes": facts}))
    else:
        if snapshot and known:
            console.print(_node_table(snapshot, known))
        if problem:
            console.print(error_text(problem))
    if problem:
        raise typer.Exit(1)


def _node_table(snapshot: ClusterSnapshot, known: list[Node]) -> Table:
    table = Table(
        _("Node"), _("Address"), _("State"), _("Free GPU memory"), _("Engines"), _("Last answer"), "Ray"
    )
    for node in known:
        free = [units.gib(gpu.free_bytes) for gpu in node.gpus]
        silent_s = node.silent_s()
        table.add_row(
            node.name,
            node.address,
            _("connected") if node.alive else _(node.problem.message) if node.problem else "",
            ", ".join(free) or units.UNKNOWN,
            ", ".join(snapshot.lanes_on(node)) or units.UNKNOWN,
            units.UNKNOWN if silent_s is None else _("{time} ago", time=units.duration(silent_s)),
            node.ray_version or units.UNKNOWN,
        )
    return table


def _node_facts(snapshot: ClusterSnapshot, node: Node) -> dict[str, Any]:
    return {
        "node": node.name,
        "address": node.address,
        "error": node.problem,
        "silent_s": node.silent_s(),
        "cores": node.cores,
        "memory_bytes": node.memory_bytes,
        "gpus": node.gpus,
        "lanes": snapshot.lanes_on(node),
        "ray_version": node.ray_version,
        "lmdyno_version": node.lmdyno_version,
        "token_auth": node.token_auth,
        "clock_offset_s": node.clock_offset_s,
    }


def stage_text(name: str, status: EngineStatus | None = None) -> str:
    """`hf: Loading weights, 40% · 12 s`, for an engine that is starting."""
    stage = _("{lane}: {stage}", lane=name, stage=(status.stage if status else None) or STARTING)
    return f"{stage} · {units.duration(status.elapsed_s)}" if status else stage
