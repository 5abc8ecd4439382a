"""Records as JSON and back, and rows as CSV. Thread-safe.

JSON: encoding is orjson's own view of dataclasses; decoding is pydantic's, so that a record from another
version or another hand fails with the name of the field that is wrong. Records keep what a text was made from
(`core.i18n.Message`), exports for other programs its English alone.

CSV: names, titles and prompts come from visitors and servers. A spreadsheet computes a cell that begins with
`=`, `+`, `-` or `@`, which can send what else is in the sheet away; an apostrophe in front makes it text.
Where a spreadsheet splits at semicolons or tabs, only quotes keep a text in one cell.
"""

import csv
import io
from collections.abc import Hashable, Iterable, Mapping
from functools import cache
from typing import Any, TypeVar, cast

import orjson
from pydantic import TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema

from core.errors import InputError
from core.i18n import N_, Message

T = TypeVar("T")

_FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")
_OTHER_DELIMITERS = (";", "\t")


def encode(value: object) -> bytes:
    """UTF-8 JSON of a dataclass, or of plain lists and dicts that hold them, for `decode`."""
    return orjson.dumps(value, default=_plain, option=orjson.OPT_PASSTHROUGH_SUBCLASS)


def encode_plain(value: object) -> bytes:
    """The same for other programs: every text is a plain English string."""
    return orjson.dumps(value)


def _plain(value: object) -> object:
    """Return what orjson leaves to us: texts with their ids, and subclasses of built-in types."""
    if isinstance(value, Message):
        return value.as_json()
    if isinstance(value, str):
        return str(value)
    if isinstance(value, dict):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def decode(kind: type[T], data: bytes | str, *, otherwise: str | None = None) -> T:
    """The object that `data` describes; raises InputError naming the first wrong field.

    `otherwise` begins its message, for people who don't know our classes.
    """
    try:
        return cast("T", _adapter(cast("Hashable", kind)).validate_json(data))
    except ValidationError as exc:
        first = exc.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the document"
        message = N_(
            "{record}: {place}: {problem}",
            record=otherwise or kind.__name__,
            place=place,
            problem=first["msg"],
        )
        raise InputError(message, code="bad-record") from exc


def json_schema(kind: type[Any]) -> dict[str, Any]:
    """The JSON Schema of what `encode_plain` writes of a kind."""
    return _adapter(cast("Hashable", kind)).json_schema(schema_generator=_PlainTexts)


class _PlainTexts(GenerateJsonSchema):
    def function_plain_schema(self, schema: Any) -> dict[str, Any]:  # noqa: ANN401, ARG002 - pydantic's own
        """A `Message`, the one type that brings its own decoding, is a string in exports."""
        return {"type": "string"}


_adapter = cache(TypeAdapter[Any])


def to_csv(columns: Iterable[str], rows: Iterable[Mapping[str, object]]) -> str:
    """The rows below a header row; None is an empty field, and no text is a formula."""
    text = io.StringIO()
    names = list(columns)
    writer = csv.DictWriter(text, names, lineterminator="\n")
    quoting_writer = csv.DictWriter(text, names, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writeheader()
    for row in rows:
        cells = {name: _neutral(value) for name, value in row.items()}
        (quoting_writer if any(map(_is_split_elsewhere, cells.values())) else writer).writerow(cells)
    return text.getvalue()


def _is_split_elsewhere(value: object) -> bool:
    return isinstance(value, str) and any(delimiter in value for delimiter in _OTHER_DELIMITERS)


def _neutral(value: object) -> object:
    """A text that a spreadsheet shows as it is; other values are left alone."""
    if not isinstance(value, str):
        return value
    text = value.replace("\r\n", "\n").replace("\r", "\n")  # csv leaves a carriage return unquoted
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA_STARTS) else text
