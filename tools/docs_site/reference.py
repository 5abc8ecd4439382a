"""Reference pages of the documentation, made from the code: lanes file, command line, files, metrics.

Each function returns the Markdown of one page. What the code can't say stays out of them.
"""

import ast
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from core.__main__ import COMMANDS, build
from core.bench.results.definitions import DEFINITIONS
from core.codec import json_schema
from core.config.endpoints import ENDPOINT_KEYS, PATIENCE_KEYS
from core.config.lanes import LOCAL_KEYS, MODEL_KEYS
from core.domain.sessions import SessionRecord
from core.domain.specs import (
    FILE_ONLY_SETTINGS,
    SETTINGS_OF,
    TIMEOUT,
    WEIGHTS_OF,
    Dialect,
    EndpointSpec,
    EngineKind,
    EngineSettings,
    LaneSpec,
    ModelSpec,
    Patience,
    RequestOptions,
    dtypes,
    rule,
)
from core.domain.timing import Timing
from core.reports import run_json
from core.walk.job import WalkRun

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS: Mapping[str, tuple[str, type[Any]]] = {
    "run": ("A load test: `lmdyno runs export`, **History**", run_json.BenchDocument),
    "quality": ("A quality run: `lmdyno runs export`, **History**", run_json.QualityDocument),
    "session": ("An evaluation session: `lmdyno sessions export`, **Sessions**", SessionRecord),
    "walk": ("A walk through the tutorial's steps: `lmdyno walk --json`", WalkRun),
}
"""By name: what is exported, and the record that is read again."""
FIELD_OF: Mapping[str, tuple[type[Any], str]] = {
    **{key: (ModelSpec, key) for key in MODEL_KEYS},
    "engine": (LaneSpec, "kind"),
    "model": (LaneSpec, "model"),
    "weights": (LaneSpec, "weights"),
    "node": (LaneSpec, "node"),
    **{key: (EngineSettings, key) for key in frozenset[str]().union(*SETTINGS_OF.values())},
    "url": (EndpointSpec, "url"),
    "dialect": (EndpointSpec, "dialect"),
    "api_key": (EndpointSpec, "api_key_name"),
    "vision": (EndpointSpec, "vision"),
    "tokenizer": (EndpointSpec, "tokenizer"),
    **{key: (RequestOptions, key) for key in ("headers", "extra_body", "max_tokens_name", "leave_out")},
    "first_token_timeout_s": (Patience, "first_token_s"),
    "stall_timeout_s": (Patience, "stall_s"),
}
"""The field of the code that each key of the lanes file fills."""


class Entry(NamedTuple):
    """One field: what its docstring says, and its default."""

    text: str
    default: str


def lanes_page() -> str:
    """Every key of `lanes.toml`."""
    local = sorted(LOCAL_KEYS)
    lines = [
        "# lanes.toml",
        "The lanes file names models, and lanes over them. "
        "[`lanes.example.toml`](lanes.example.toml) has an example of each.",
        "A mistake is reported with file, line, key and the allowed values.",
        "## `[models.NAME]`",
        _table(("key", "meaning"), [(f"`{key}`", _entry(key).text) for key in MODEL_KEYS]),
        "## `[lanes.NAME]`",
        "None in a description means that the key isn't set.",
        "Every lane has an `engine`:",
        _table(
            ("engine", "weights, the default first"),
            [(f"`{kind}`", ", ".join(f"`{form}`" for form in WEIGHTS_OF[kind])) for kind in EngineKind],
        ),
        "### Local engines",
        _table(
            ("key", "meaning"),
            [(f"`{key}`", _entry(key).text) for key in local],
        ),
        "Settings of the engines. Those marked \\* can be set in the lanes file only, never on a page.",
        _table(
            ("key", "engines", "meaning", "allowed", "default"),
            [_setting_row(key) for key in sorted(frozenset[str]().union(*SETTINGS_OF.values()))],
        ),
        "### Endpoints",
        _table(
            ("key", "meaning", "default"),
            [(f"`{key}`", *_entry(key)) for key in sorted(ENDPOINT_KEYS - {"engine", "model"})],
        ),
        f"`model` is here {_lower(_entry_of(EndpointSpec, 'model').text)} "
        f"Dialects: {', '.join(f'`{dialect}`' for dialect in Dialect)}.",
        "### How long requests wait",
        "For every lane, in seconds. " + str(TIMEOUT.hint),
        _table(("key", "meaning"), [(f"`{key}`", _entry(key).text) for key in sorted(PATIENCE_KEYS)]),
    ]
    return "\n\n".join(lines) + "\n"


def _setting_row(key: str) -> tuple[str, ...]:
    kinds = [kind for kind in EngineKind if key in SETTINGS_OF[kind]]
    if key == "dtype":
        lmdeploy = _code(dtypes(EngineKind.TURBOMIND))
        allowed = f"{_code(dtypes(EngineKind.TRANSFORMERS))}; LMDeploy: {lmdeploy}"
    else:
        allowed = str(rule(kinds[0], key).hint).removeprefix("Allowed: ").removesuffix(".")
    mark = " \\*" if key in FILE_ONLY_SETTINGS else ""
    entry = _entry(key)
    return f"`{key}`{mark}", _code(kinds), entry.text, allowed, entry.default


def cli_page() -> str:
    """Every command of `lmdyno` with its arguments and options."""
    parts = [
        "# Command line",
        "`lmdyno [--lang LANGUAGE] COMMAND`, or `python -m core`. Exit codes: 0 done, 1 a lane or a step "
        "failed, 2 wrong usage or configuration.",
    ]
    for name, command in sorted(commands().items()):
        paragraphs = (_text(paragraph) for paragraph in (command.help or "").split("\n\n"))
        parts += [f"## lmdyno {name}", *paragraphs]
        if rows := [_parameter(parameter) for parameter in command.params]:
            parts.append(_table(("parameter", "meaning", "default"), rows))
    return "\n\n".join(parts) + "\n"


def commands() -> dict[str, TyperCommand]:
    """Every command by how it is typed, such as `runs list`."""
    return dict(_below(typer.main.get_command(build(COMMANDS))))


def _below(command: object, typed: str = "") -> Iterable[tuple[str, TyperCommand]]:
    if isinstance(command, TyperGroup):
        for name, inner in command.commands.items():
            yield from _below(inner, f"{typed} {name}".strip())
    elif isinstance(command, TyperCommand):
        yield typed, command


def _parameter(parameter: object) -> tuple[str, str, str]:
    assert isinstance(parameter, TyperArgument | TyperOption)
    if isinstance(parameter, TyperOption):
        names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    else:
        names = (parameter.metavar or parameter.name or "").upper()
    default = "required" if parameter.required else _default(parameter.default)
    return f"`{names}`", _text(parameter.help or ""), default


def metrics_page() -> str:
    """What each figure of a request means, and what other tools mean by the same word."""
    own = [
        (f"`{name}`", _unit(name), _docstring(member.fget))
        for name, member in vars(Timing).items()
        if isinstance(member, property) and member.fget and not name.startswith("_") and name.endswith("_s")
    ]
    facts = [(f"`{field.name}`", _entry_of(Timing, field.name).text) for field in fields(Timing)]
    rows = ("ttft", "tpot", "itl", "e2e", "tokens", "throughput")
    parts = [
        "# Metrics",
        "Every figure of a request is computed from its timestamps, and unknown where they don't define it. "
        "These are the fields of exported files, with their unit in the name.",
        _table(("field", "unit", "definition"), own),
        "What is stored of a request:",
        _table(("field", "meaning"), facts),
        "## As other tools define them",
        "The switch **Metric definitions** of a load test's results shows the same timestamps under these "
        "definitions.",
    ]
    for definition in DEFINITIONS.values():
        values = [(row.upper() if len(row) < 5 else row, str(getattr(definition, row))) for row in rows]
        parts += [f"### {definition.title}", _table(("metric", "definition"), values)]
        parts.append(f"Source: `{definition.source}`")
    return "\n\n".join(parts) + "\n"


def schemas_page() -> str:
    """The files that LMDyno writes and reads again, with their top-level fields."""
    parts = [
        "# JSON files",
        "What LMDyno exports as JSON, each described by a JSON Schema (2020-12). Load tests, quality runs, "
        "and sessions can be imported again.",
    ]
    for name, (title, kind) in SCHEMAS.items():
        schema = json_schema(kind)
        rows = [
            (f"`{key}`", _type(value), "yes" if key in schema.get("required", ()) else "")
            for key, value in schema["properties"].items()
        ]
        parts += [
            f"## {name}",
            f"{title}. Schema: [{name}.schema.json](schemas/{name}.schema.json)",
            _table(("field", "type", "required"), rows),
        ]
    return "\n\n".join(parts) + "\n"


def schema_files() -> dict[str, str]:
    """The JSON Schemas by file name."""
    return {
        f"{name}.schema.json": json.dumps(json_schema(kind), indent=1, ensure_ascii=False)
        for name, (_title, kind) in SCHEMAS.items()
    }


def _type(value: Mapping[str, Any]) -> str:
    if "anyOf" in value:
        return " or ".join(_type(option) for option in value["anyOf"])
    if "$ref" in value:
        return value["$ref"].rpartition("/")[2]
    if value.get("type") == "array":
        return f"list of {_type(value['items'])}" if value.get("items") else "list"
    return str(value.get("type", "any"))


def _entry(key: str) -> Entry:
    return _entry_of(*FIELD_OF[key])


def _entry_of(kind: type[Any], name: str) -> Entry:
    text = _docstrings(kind)[name]
    default = next(field for field in fields(kind) if field.name == name).default
    return Entry(_text(text), "" if default is MISSING else _default(default))


@cache
def _docstrings(kind: type[Any]) -> Mapping[str, str]:
    """The docstring below each field of a class."""
    body = ast.parse(inspect.getsource(kind)).body[0]
    assert isinstance(body, ast.ClassDef)
    texts = {}
    for field, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            match after:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    texts[field.target.id] = text
    return texts


def _docstring(function: Callable[..., object]) -> str:
    return _text((inspect.getdoc(function) or "").partition("\n\n")[0])


def _unit(name: str) -> str:
    return "tokens per second" if name.endswith("tok_per_s") else "seconds"


def _default(value: object) -> str:
    if value is None or value in ("", (), []):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`"


def _code(values: Iterable[object]) -> str:
    return ", ".join(f"`{value}`" for value in values)


def _text(text: str) -> str:
    """One line of Markdown that a table cell can hold."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    columns = list(head)
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


PAGES: Mapping[str, Callable[[], str]] = {
    "reference/lanes.md": lanes_page,
    "reference/cli.md": cli_page,
    "reference/files.md": schemas_page,
    "reference/metrics.md": metrics_page,
}
"""What makes each generated page, by its place in `docs/`."""
