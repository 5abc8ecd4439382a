"""`python -m core …`: everything the dashboard measures, from the command line.

Exit codes: 0 done, 1 a lane or a step failed, 2 wrong usage or configuration.
"""

import logging
import sys

import typer

from core.cli import chat, doctor, engines, memory, models, quantize, telemetry
from core.errors import ConfigError, InputError, LMDynoError

app = typer.Typer(
    name="python -m core",
    help="LMDyno: the same weights on several inference engines, measured the same way.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(chat.chat)
app.command()(doctor.doctor)
app.add_typer(engines.app, name="engines")
app.add_typer(models.app, name="models")
app.command()(quantize.quantize)
app.add_typer(memory.app, name="memory")
app.command()(telemetry.telemetry)


def main() -> None:
    # Commands say what matters themselves; without a handler Python would print warnings a second time.
    logging.getLogger("core").addHandler(logging.NullHandler())
    try:
        app()
    except LMDynoError as error:
        typer.echo(f"{error.message}\n{error.hint}".rstrip(), err=True)
        sys.exit(2 if isinstance(error, ConfigError | InputError) else 1)


if __name__ == "__main__":
    main()
