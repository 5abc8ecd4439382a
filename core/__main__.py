"""`lmdyno …`: everything the dashboard measures, from the command line.

Exit codes: 0 done, 1 a lane or a step failed, 2 wrong usage or configuration.
"""

import logging
import sys
from collections.abc import Iterable
from importlib import import_module

import typer

from core.errors import ConfigError, InputError, LMDynoError

COMMANDS = {
    "chat": "core.cli.chat:chat",
    "bench": "core.cli.bench:bench",
    "quality": "core.cli.quality.command:quality",
    "bandwidth": "core.cli.bandwidth:bandwidth",
    "runs": "core.cli.runs:app",
    "doctor": "core.cli.doctor:doctor",
    "engines": "core.cli.engines:app",
    "models": "core.cli.models:app",
    "quantize": "core.cli.quantize:quantize",
    "walk": "core.cli.walk:walk",
    "memory": "core.cli.memory:app",
    "telemetry": "core.cli.telemetry:telemetry",
}
"""Where each command is. Only the named one is imported: a load test starts in half the time."""


def build(names: Iterable[str]) -> typer.Typer:
    """The command line with these of the commands."""
    app = typer.Typer(
        name="lmdyno", no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False
    )

    @app.callback(help="LMDyno: the same weights on several inference engines, measured the same way.")
    def lmdyno() -> None: ...

    for name in names:
        module, _, attribute = COMMANDS[name].partition(":")
        command = vars(import_module(module))[attribute]
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name)(command)
    return app


def main() -> None:
    # Commands say what matters themselves; without a handler Python would print warnings a second time.
    logging.getLogger("core").addHandler(logging.NullHandler())
    named = [word for word in sys.argv[1:2] if word in COMMANDS]
    try:
        build(named or COMMANDS)()
    except LMDynoError as error:
        typer.echo(f"{error.message}\n{error.hint}".rstrip(), err=True)
        sys.exit(2 if isinstance(error, ConfigError | InputError) else 1)


if __name__ == "__main__":
    main()
