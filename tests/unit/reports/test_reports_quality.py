import csv
import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.charts.quality_points import (
    RIGHT_ANSWERS,
    Area,
    differences,
    measures,
    prefix_curves,
    trade_off_points,
)
from core.quality.results import results
from core.reports.html import quality_html
from core.reports.tables import answers_csv, answers_parquet
from tests.unit.quality import quality_samples as samples


@pytest.fixture
def record():
    return samples.record()


@pytest.fixture
def result(record):
    return results(record)


def test_the_table_has_a_row_an_answer_with_its_outcome(record):
    rows = list(csv.DictReader(io.StringIO(answers_csv(record))))
    assert len(rows) == len(record.answers)
    lost = next(row for row in rows if row["lane"] == "awq" and row["task_id"] == "t0")
    assert (lost["question"], lost["expected"], lost["outcome"]) == ("What is 0 + 0?", "0", "wrong")
    assert float(lost["tpot_s"]) == pytest.approx(0.002)
    prompt = next(row for row in rows if row["part"] == "prompt" and row["repeat"] == "1")
    assert (prompt["outcome"], prompt["question"]) == ("", "Say hello.")
    table = pq.read_table(pa.BufferReader(answers_parquet(record)))
    assert table.num_rows == len(rows)


def test_the_page_holds_verdicts_figures_charts_and_the_worst_answers(result, record):
    page = quality_html(result, record)
    body = page.split("<body>")[1]
    assert "awq is measurably worse than hf." in body
    assert "Plotly.newPlot" in body
    assert "src=" not in body
    assert "Different answers: awq" in body
    assert "Hello there, my fiend." in body
    assert "Different answers: turbomind" not in body


def test_answers_of_models_are_text_and_no_html(record):
    hostile = samples.record()
    answers = tuple(
        type(answer)(
            lane=answer.lane,
            part=answer.part,
            item=answer.item,
            repeat=answer.repeat,
            text="<script>x</script>",
        )
        if answer.lane == "awq"
        else answer
        for answer in hostile.answers
    )
    hostile = type(hostile)(run=hostile.run, answers=answers)
    assert "<script>x" not in quality_html(results(hostile), hostile)


def test_points_of_the_trade_off_are_the_lanes_figures(result):
    assert measures(result) == (RIGHT_ANSWERS, "book.txt")
    hf, _, awq = trade_off_points(result, RIGHT_ANSWERS, Area.WEIGHTS)
    assert (hf.quality, hf.is_reference, awq.quality) == (0.9, True, 0.6)
    assert awq.size == 100_000_000
    assert awq.tok_per_s == pytest.approx(500)
    awq = trade_off_points(result, "book.txt", Area.ENERGY)[2]
    assert awq.quality == pytest.approx(1.1)
    assert awq.low <= awq.quality <= awq.high
    assert awq.size_text.endswith("J")


def test_differences_leave_out_the_reference_and_name_the_noise(result):
    tasks, text = differences(result)
    assert [row.lane for row in tasks.rows] == ["turbomind", "awq"]
    assert (tasks.is_share, tasks.noise) == (True, None)
    assert text.noise == 0.002
    assert text.rows[1].value == pytest.approx(0.1)


def test_curves_are_those_of_the_lanes_and_of_the_noise(result):
    assert [(curve.lane, curve.is_noise) for curve in prefix_curves(result)] == [
        ("turbomind", False),
        ("awq", False),
        ("hf", True),
    ]
