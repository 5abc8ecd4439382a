"""`engines`: start, stop and look at the engines of the lanes."""

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from core import units
from core.cli import context
from core.codec import encode
from core.domain.runs import ErrorInfo
from core.engines.manager import EngineManager, EngineStatus
from core.errors import EngineError, InputError
from core.telemetry.nvml import Nvml

app = typer.Typer(help="Start, stop and look at the engines of the lanes.", no_args_is_help=True)
console = Console()

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Name = Annotated[str, typer.Argument(help="The lane's name.")]


def _manager() -> EngineManager:
    settings, book = context.load()
    local = [lane for lane in book.lanes if lane.is_local]
    return EngineManager(settings, local, persistent=True, gpu=Nvml())


@app.command("list")
def list_engines(as_json: AsJson = False) -> None:
    """All engines with state, process, address and uptime."""
    statuses = _manager().statuses()
    if as_json:
        typer.echo(encode([_facts(status) for status in statuses]))
        return
    table = Table("lane", "engine", "state", "pid", "address", "since", "version")
    for status in statuses:
        table.add_row(
            status.name,
            status.lane.kind,
            status.state,
            str(status.pid or units.UNKNOWN),
            status.url or units.UNKNOWN,
            units.duration(status.elapsed_s),
            status.version or units.UNKNOWN,
        )
        if status.error:
            table.add_row("", "", status.error.message, "", status.error.hint, "", "")
    console.print(table)


@app.command()
def start(name: Name, as_json: AsJson = False) -> None:
    """Start a lane's engine and wait until it is healthy. It runs on until `engines stop`."""
    manager = _manager()
    timeout_s = manager.status(name).lane.settings.start_timeout_s
    manager.ensure(name)
    try:
        with console.status(f"{name}: starting") as spinner:
            status = manager.wait_until_healthy(
                name,
                timeout_s,
                on_progress=lambda now: spinner.update(
                    f"{name}: {now.stage or now.state} · {units.duration(now.elapsed_s)}"
                ),
            )
    except KeyboardInterrupt:
        manager.stop(name, force=True)
        raise typer.Exit(1) from None
    except EngineError as error:
        if as_json:
            typer.echo(encode({"lane": name, "error": ErrorInfo.of(error)}))
            raise typer.Exit(1) from None
        raise
    if as_json:
        typer.echo(encode(_facts(status)))
    else:
        console.print(f"{name} answers at {status.url}")


@app.command()
def stop(
    name: Annotated[str | None, typer.Argument(help="The lane's name.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All engines.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also while a request runs.")] = False,
) -> None:
    """Stop a lane's engine; refused while a request runs there, unless forced."""
    if (name is None) != every:
        raise InputError("Which engine?", hint="Name one lane, or say --all.")
    manager = _manager()
    names = [status.name for status in manager.statuses() if status.pid] if name is None else [name]
    for each in names:
        manager.stop(each, force=force)
        console.print(f"{each} stopped")


@app.command()
def logs(name: Name, lines: Annotated[int, typer.Option(help="How many of the last lines.")] = 40) -> None:
    """The end of an engine's log."""
    typer.echo(_manager().log_tail(name, lines))


def _facts(status: EngineStatus) -> dict[str, Any]:
    return {
        "lane": status.name,
        "kind": status.lane.kind,
        "state": status.state,
        "pid": status.pid,
        "url": status.url,
        "version": status.version,
        "device": status.device,
        "elapsed_s": status.elapsed_s,
        "in_use": status.in_use,
        "error": status.error,
    }
