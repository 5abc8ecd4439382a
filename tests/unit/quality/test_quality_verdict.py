"""Runs side by side, and a lane's worst items."""

from dataclasses import replace

import pytest

from core.codec import encode
from core.domain.runs import Prompted
from core.quality.paired import Change, Piece
from core.quality.results import Outcome, results
from core.quality.verdict import compare, compared_answers, figures
from tests.unit.quality import quality_samples as samples


def test_lanes_of_one_name_stand_together():
    record = samples.record()
    fewer = replace(
        record,
        run=replace(
            record.run,
            id="q2",
            plan=encode(samples.plan(lanes=(samples.HF, samples.AWQ))).decode(),
            lanes=(record.run.lanes[0], record.run.lanes[2]),
        ),
    )
    found = compare([results(record), results(fewer)])
    assert [row.name for row in found.lanes] == ["hf", "turbomind", "awq"]
    assert found.lanes[1].lanes[1] is None
    assert found.warnings == ()


def test_what_keeps_runs_from_comparing_is_said():
    record = samples.record()
    other = replace(
        record,
        run=replace(record.run, plan=encode(samples.plan(answer_tokens=64, reference="turbomind")).decode()),
    )
    assert list(compare([results(record), results(other)]).warnings) == [
        "The runs have different prompts.",
        "The runs have different reference lanes.",
    ]


def test_a_lanes_figures_have_names():
    awq = results(samples.record()).lanes[2]
    found = figures(awq)
    assert found["accuracy_ratio"] == 0.6
    assert found["difference_nats.book.txt"] == pytest.approx(0.1)


def compared(lane: str):
    record = samples.record()
    return compared_answers(results(record), record, lane)


def test_lost_tasks_come_first_then_answers_by_their_parting():
    found = compared("awq")
    assert [(each.part, each.item) for each in found[:3]] == [(Prompted.TASK, n) for n in range(3)]
    assert all(each.is_lost for each in found[:3])
    assert [each.item for each in found[3:5]] == [2, 0]  # "No." parts before "Hello there, my fiend."
    assert all(each.identical for each in found[5:])
    assert len(found) == 13


def test_a_lane_that_answers_the_same_has_nothing_lost():
    assert all(each.identical and not each.is_lost and not each.is_won for each in compared("turbomind"))


def test_each_task_has_both_outcomes():
    both_wrong = next(each for each in compared("awq") if each.part is Prompted.TASK and each.item == 9)
    assert (both_wrong.reference_outcome, both_wrong.outcome) == (Outcome.WRONG, Outcome.WRONG)
    assert not both_wrong.is_lost


def test_the_pieces_are_words_and_chinese_characters():
    parted = next(each for each in compared("awq") if each.part is Prompted.PROMPT and each.item == 0)
    assert parted.pieces == (
        Piece(Change.SAME, "Hello there, my "),
        Piece(Change.ONLY_REFERENCE, "friend."),
        Piece(Change.ONLY_LANE, "fiend."),
    )
