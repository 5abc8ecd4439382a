from datetime import UTC, datetime

import pytest

from core.domain.runs import HistoryEntry, LaneSummary, RunKind, Summary
from core.ui.history.list_page import comparable, failures, rows

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def entry(**changes):
    facts = {
        "kind": RunKind.BENCH,
        "id": "r1",
        "created_at": NOON,
        "updated_at": NOON,
        "title": "quick look",
        "lanes": ("hf", "awq"),
        "models": ("tiny",),
        "host": None,
        "state": "done",
    }
    return HistoryEntry(**facts | changes)


def test_a_row_holds_the_figures_in_the_lanes_order():
    summary = Summary(
        lanes=(
            LaneSummary(lane="hf", ttft_s=0.0523, decode_tok_per_s=34.06),
            LaneSummary(lane="awq", ttft_s=None, decode_tok_per_s=None),
        ),
        answered=38,
        failed=2,
    )
    (row,) = rows([entry(summary=summary, note="two\nlines")]).to_pylist()
    assert (row["kind"], row["lanes"], row["machine"]) == ("Benchmark", ["hf", "awq"], None)
    assert (row["ttft"], row["decode"], row["failed"]) == (["52.3 ms", "–"], ["34.1", "–"], "2 of 40")
    assert row["note"] == "two lines"
    assert row["when"] == NOON


def test_a_turn_with_images_is_called_so():
    kinds = [entry(kind=RunKind.CHAT, with_images=seen) for seen in (False, True)]
    assert rows(kinds)["kind"].to_pylist() == ["Turn", "Turn with images"]


def test_what_is_not_known_yet_is_a_dash():
    assert failures(None) == "–"
    assert rows([entry()]).to_pylist()[0]["ttft"] == []


@pytest.mark.parametrize(
    ("kinds", "expected"), [("b", False), ("bb", True), ("bbbbbb", True), ("bbbbbbb", False), ("bc", False)]
)
def test_two_to_six_load_tests_can_be_compared(kinds, expected):
    entries = [entry(kind=RunKind.BENCH if kind == "b" else RunKind.CHAT) for kind in kinds]
    assert comparable(entries) is expected
