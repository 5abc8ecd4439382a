"""CSV for spreadsheets, which must not take a text for a formula.

Names, titles and prompts come from visitors and servers. A spreadsheet computes a cell that begins with
`=`, `+`, `-` or `@`, which can send what else is in the sheet away; an apostrophe in front makes it text.
Where a spreadsheet splits at semicolons or tabs, only quotes keep a text in one cell.
"""

import csv
import io
from collections.abc import Iterable, Mapping

_FORMULA_STARTS = tuple("=+-@\t\r\n＝＋－＠")
_OTHER_DELIMITERS = (";", "\t")


def to_csv(columns: Iterable[str], rows: Iterable[Mapping[str, object]]) -> str:
    """The rows below a header row; None is an empty field, and no text is a formula."""
    text = io.StringIO()
    names = list(columns)
    writer = csv.DictWriter(text, names, lineterminator="\n")
    quoting_writer = csv.DictWriter(text, names, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writeheader()
    for row in rows:
        cells = {name: neutral(value) for name, value in row.items()}
        (quoting_writer if any(map(_is_split_elsewhere, cells.values())) else writer).writerow(cells)
    return text.getvalue()


def _is_split_elsewhere(value: object) -> bool:
    return isinstance(value, str) and any(delimiter in value for delimiter in _OTHER_DELIMITERS)


def neutral(value: object) -> object:
    """A text that a spreadsheet shows as it is; other values are left alone."""
    if not isinstance(value, str):
        return value
    text = value.replace("\r\n", "\n").replace("\r", "\n")  # csv leaves a carriage return unquoted
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA_STARTS) else text
