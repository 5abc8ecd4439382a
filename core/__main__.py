"""`lmdyno …`: everything the dashboard measures, from the command line.

Exit codes: 0 done, 1 a lane or a step failed, 2 wrong usage or configuration.

Texts are in the language that `--lang` or the locale names. It is settled before any command is imported, so
that commands may translate their help texts while they are imported.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from getpass import getuser
from importlib import import_module
from typing import Annotated, NamedTuple

import typer

from core.access import guard
from core.access.guard import AuditEntry
from core.access.identity import LOCAL, Identity
from core.errors import ConfigError, InputError, LMDynoError
from core.files import keep_to_oneself
from core.i18n import (
    N_,
    Language,
    Message,
    _,
    current_language,
    environment_language,
    match_language,
    set_process_language,
)


class Command(NamedTuple):
    """The module and function of a command, and its help text."""

    place: str
    help: Message


COMMANDS = {
    "chat": Command(
        "core.cli.chat:chat",
        N_(
            "Ask several lanes the same question, one after another or together, with or without images.\n\n"
            "Engines that aren't running are started, and stopped afterwards. Exit code 1: a lane failed."
        ),
    ),
    "bench": Command(
        "core.cli.bench:bench",
        N_(
            "Load-test lanes or endpoints, and measure latency and throughput.\n\n"
            "Ctrl-C stops the run and keeps the results so far. Exit code 1: a request failed."
        ),
    ),
    "quality": Command(
        "core.cli.quality:quality",
        N_(
            "Compare the answers of lanes, and how likely they find the same texts, with a reference "
            "lane.\n\n"
            "Ctrl-C stops the run and keeps the results so far. Exit code 1: a lane couldn't take part."
        ),
    ),
    "bandwidth": Command(
        "core.cli.machine:bandwidth",
        N_(
            "Measure the memory bandwidth of a GPU with a copy (reads and writes), and remember it.\n\n"
            "Decode speeds are then shown relative to this measurement instead of the data sheet."
        ),
    ),
    "runs": Command("core.cli.runs:app", N_("List, show, compare, export, and import turns and runs.")),
    "sessions": Command(
        "core.cli.sessions:app",
        N_("List, show, export, and import evaluation sessions; generate their answers; let a model judge."),
    ),
    "doctor": Command(
        "core.cli.machine:doctor",
        N_("Check Python, driver, GPU, engines, and lanes. Exit code 1: something needs to be repaired."),
    ),
    "engines": Command("core.cli.engines:app", N_("Start, stop, and inspect the engines of the lanes.")),
    "nodes": Command(
        "core.cli.engines:nodes",
        N_(
            "List the nodes of the Ray cluster that lanes.toml names, with free memory and engines.\n\n"
            "Exit code 1: the cluster can't be reached."
        ),
    ),
    "models": Command("core.cli.models:app", N_("List, prepare, and convert checkpoints on disk.")),
    "quantize": Command(
        "core.cli.models:quantize",
        N_('Quantise a model to W4A16 (AWQ) with LMDeploy, for lanes with engine = "awq".'),
    ),
    "walk": Command(
        "core.cli.walk:walk",
        N_(
            "Run the tutorial's steps on this machine, or on a node of the cluster, each with its results "
            "and time.\n\n"
            "Transformers, TurboMind, KV cache ratios, W4A16 quantisation, the API server, the Python "
            "pipeline, and image questions. Steps that can't run on the machine are skipped with the reason. "
            "Exit code 1: a step failed, or the walk was cancelled."
        ),
    ),
    "record": Command(
        "core.cli.runs:record",
        N_(
            "Write stored turns, runs, sessions, and a walk to one small file.\n\n"
            "The recording can be replayed with its original timing on a machine without a GPU."
        ),
    ),
    "memory": Command("core.cli.memory:app", N_("Predict and measure the GPU memory of an LMDeploy engine.")),
    "telemetry": Command(
        "core.cli.machine:telemetry",
        N_("Sample memory, power, and load of GPUs and engines, and summarise the samples."),
    ),
    "metrics": Command(
        "core.cli.machine:metrics",
        N_("Print the state of lanes, jobs, store, and meter for Prometheus, or serve it on a port."),
    ),
}
"""Only the named command is imported: a load test starts in half the time."""


TYPERS_WORDS = {
    "ARGUMENTS_PANEL_TITLE": N_("Arguments"),
    "OPTIONS_PANEL_TITLE": N_("Options"),
    "COMMANDS_PANEL_TITLE": N_("Commands"),
    "ERRORS_PANEL_TITLE": N_("Error"),
    "DEFAULT_STRING": N_("[default: {}]"),
    "REQUIRED_LONG_STRING": N_("[required]"),
    "ENVVAR_STRING": N_("[env var: {}]"),
    "DEPRECATED_STRING": N_("(deprecated) "),
    "ABORTED_TEXT": N_("Aborted."),
    "RICH_HELP": N_("Try [blue]'{command_path} {help_option}'[/] for help."),
}
"""The headings and remarks of Typer's help, by the constants that hold them."""


def build(names: Iterable[str]) -> typer.Typer:
    """The command line with these of the commands."""
    app = typer.Typer(
        name="lmdyno", no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False
    )

    @app.callback(help=_("LMDyno: the same weights on several inference engines, measured the same way."))
    def lmdyno(
        lang: Annotated[
            str | None, typer.Option(metavar="LANGUAGE", help=_("Language of all texts: en or zh."))
        ] = None,
    ) -> None: ...

    for name in names:
        module, _colon, attribute = COMMANDS[name].place.partition(":")
        command = vars(import_module(module))[attribute]
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, help=_(COMMANDS[name].help))
        else:
            app.command(name, help=_(COMMANDS[name].help))(command)
    return app


def translate_help() -> None:
    """Have Typer write its own part of the help in the language of the texts."""
    from typer import rich_utils
    from typer._click import Command, decorators, formatting

    for name, words in TYPERS_WORDS.items():
        setattr(rich_utils, name, _(words))
    write_usage = formatting.HelpFormatter.write_usage
    help_option = decorators.help_option

    def write_translated_usage(
        self: formatting.HelpFormatter, prog: str, args: str = "", prefix: str | None = None
    ) -> None:
        write_usage(self, prog, args, prefix or _("Usage: "))

    def translated_help_option(param_decls: list[str]) -> Callable[[Command], Command]:
        def add_to(command: Command) -> Command:
            added = help_option(param_decls)(command)
            vars(command.params[-1])["help"] = _("Show this message and exit.")
            return added

        return add_to

    formatting.HelpFormatter.write_usage = write_translated_usage  # type: ignore[method-assign]
    decorators.help_option = translated_help_option


def main() -> None:
    # Commands say what matters themselves; without a handler Python would print warnings a second time.
    logging.getLogger("core").addHandler(logging.NullHandler())
    keep_to_oneself()
    guard.find_identity_with(_whoever_types)
    guard.record_with(_record)
    language, words = asked_language(sys.argv[1:])
    set_process_language(language or environment_language(os.environ))
    if current_language() is not Language.ENGLISH:
        translate_help()
    named = [word for word in words[:1] if word in COMMANDS]
    try:
        build(named or COMMANDS)()
    except LMDynoError as error:
        from core.cli.terminal import printable

        typer.echo(printable(f"{_(error.message)}\n{_(error.hint)}".rstrip()), err=True)
        sys.exit(2 if isinstance(error, ConfigError | InputError) else 1)


def _whoever_types() -> Identity:
    """The owner of the machine, by the name that the audit log shows."""
    try:
        return replace(LOCAL, name=f"{getuser()}, command line")
    except (KeyError, OSError):  # a user without a name, as in many containers
        return LOCAL


def _record(entry: AuditEntry) -> None:
    # Only a command that changes something needs the store for this.
    from core.settings import load_settings
    from core.store.audit import AuditLog

    with closing(AuditLog(load_settings().database_url)) as audit:
        audit.record(entry)


def asked_language(words: Sequence[str]) -> tuple[Language | None, Sequence[str]]:
    """The language that `--lang` before the command names, if any, and the words from the command on."""
    match words:
        case ["--lang", tag, *rest]:
            return match_language(tag), rest
        case [first, *rest] if first.startswith("--lang="):
            return match_language(first.partition("=")[2]), rest
    return None, words


if __name__ == "__main__":
    main()
