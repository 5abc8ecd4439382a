from dataclasses import replace

import pytest

from core.codec import encode
from core.quality.comparison import compare, figures
from core.quality.results import results
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
