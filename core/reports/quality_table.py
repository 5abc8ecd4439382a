"""A quality run's answers as a table, one row an answer, for spreadsheets and data frames."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from core import csv_text
from core.domain.quality import Prompted, QualityAnswer, QualityRecord
from core.quality.plan import QualityPlan
from core.quality.results import outcome, plan_of

_COLUMNS: Mapping[str, pa.DataType] = {
    "run_id": pa.string(),
    "lane": pa.string(),
    "part": pa.string(),
    "item": pa.int64(),
    "repeat": pa.int64(),
    "task_id": pa.string(),
    "question": pa.string(),
    "expected": pa.string(),
    "answer": pa.string(),
    "outcome": pa.string(),
    "prompt_tokens": pa.int64(),
    "output_tokens": pa.int64(),
    "ttft_s": pa.float64(),
    "tpot_s": pa.float64(),
    "finish_reason": pa.string(),
    "error": pa.string(),
}


def to_csv(record: QualityRecord) -> str:
    """With a header row; unknown is empty."""
    return csv_text.to_csv(_COLUMNS, _rows(record))


def to_parquet(record: QualityRecord) -> bytes:
    table = pa.Table.from_pylist(_rows(record), schema=pa.schema(list(_COLUMNS.items())))
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink)
    return bytes(sink.getvalue().to_pybytes())


def _rows(record: QualityRecord) -> list[dict[str, Any]]:
    plan = plan_of(record.run)
    return [_row(record.run.id, plan, answer) for answer in record.answers]


def _row(run_id: str, plan: QualityPlan, answer: QualityAnswer) -> dict[str, Any]:
    task = plan.tasks[answer.item] if answer.part is Prompted.TASK else None
    timing = answer.timing
    return {
        "run_id": run_id,
        "lane": answer.lane,
        "part": answer.part.value,
        "item": answer.item,
        "repeat": answer.repeat,
        "task_id": task.id if task else None,
        "question": task.text if task else plan.prompts[answer.item],
        "expected": " | ".join(task.answers) if task else None,
        "answer": answer.text,
        "outcome": outcome(answer, task).value if task else None,
        "prompt_tokens": answer.prompt_tokens,
        "output_tokens": timing.output_tokens if timing else None,
        "ttft_s": timing.ttft_s if timing else None,
        "tpot_s": timing.tpot_s if timing else None,
        "finish_reason": answer.finish_reason.value if answer.finish_reason else None,
        "error": answer.error.code if answer.error else None,
    }
