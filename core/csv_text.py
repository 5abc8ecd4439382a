"""CSV for spreadsheets, which must not take a text for a formula.

Names, titles and prompts come from visitors and servers. A spreadsheet computes a cell that begins with
`=`, `+`, `-` or `@`, which can send what else is in the sheet away; an apostrophe in front makes it text.
"""

import csv
import io
from collections.abc import Iterable, Mapping

_FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")


def to_csv(columns: Iterable[str], rows: Iterable[Mapping[str, object]]) -> str:
    """The rows below a header row; None is an empty field, and no text is a formula."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: neutral(value) for name, value in row.items()})
    return text.getvalue()


def neutral(value: object) -> object:
    """A text that a spreadsheet shows as it is; other values are left alone."""
    if not isinstance(value, str):
        return value
    text = value.replace("\r\n", "\n").replace("\r", "\n")  # csv leaves a carriage return unquoted
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA_STARTS) else text
