from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from core.ui.history.session import Address, link, parse, time_span


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, Address()),
        ({"run": "r1"}, Address(run="r1")),
        ({"turn": " t1 "}, Address(turn="t1")),
        ({"run": "r1", "turn": "t1", "compare": "a,b"}, Address(run="r1")),
        ({"compare": "a, b,,a"}, Address(compare=("a", "b"))),
        ({"compare": "a,b", "baseline": "b"}, Address(compare=("a", "b"), baseline="b")),
        ({"baseline": "b", "run": ""}, Address()),
    ],
)
def test_the_query_names_one_view(query, expected):
    assert parse(query) == expected


def test_a_link_leads_back_to_its_view():
    made = link("http://host:8501/history?history_kind=Turns", {"compare": ["a", "b"], "baseline": "b"})
    assert made == "http://host:8501/history?compare=a,b&baseline=b"
    assert link(None, {"run": "r&1"}) == "?run=r%261"


def test_days_are_whole_days_of_the_visitor():
    zone = timezone(timedelta(hours=2))
    since, until = time_span(date(2026, 3, 1), date(2026, 3, 2), zone)
    assert since == datetime(2026, 2, 28, 22, tzinfo=UTC)
    assert until == datetime(2026, 3, 2, 22, tzinfo=UTC)
    assert time_span(date(2026, 3, 1), None, zone) == (since, None)
    assert time_span(None, None, zone) == (None, None)
