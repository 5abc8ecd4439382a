"""Tables for spreadsheets and data frames: a run's requests, a quality run's answers, the audit log.

A CSV table has a header row, and an empty field for what is unknown.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from core.access.guard import AuditEntry
from core.codec import to_csv
from core.domain.runs import BenchPass, BenchRecord, BenchRequest, Prompted, QualityAnswer, QualityRecord
from core.domain.turns import Place
from core.quality.plan import QualityPlan
from core.quality.results import outcome, plan_of

_NS = 1e-9

_RUN_COLUMNS: Mapping[str, pa.DataType] = {
    "run_id": pa.string(),
    "lane": pa.string(),
    "together": pa.string(),
    "concurrency": pa.int64(),
    "rate_req_per_s": pa.float64(),
    "repeat": pa.int64(),
    "request": pa.int64(),
    "warmup": pa.bool_(),
    "sent_s": pa.float64(),
    "delay_s": pa.float64(),
    "ttft_s": pa.float64(),
    "tpot_s": pa.float64(),
    "e2e_s": pa.float64(),
    "prompt_tokens": pa.int64(),
    "cached_tokens": pa.int64(),
    "output_tokens": pa.int64(),
    "chunks": pa.int64(),
    "finish_reason": pa.string(),
    "error": pa.string(),
    "node": pa.string(),
    "over_network": pa.bool_(),
}
"""`sent_s` counts from the start of the request's pass, and is negative in the warm-up. `node` is where the
engine ran in a Ray cluster; `over_network` says whether a network lay between it and the clock."""
_ANSWER_COLUMNS: Mapping[str, pa.DataType] = {
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
_AUDIT_COLUMNS = ("at", "who", "name", "action", "target", "allowed")


def requests_csv(record: BenchRecord) -> str:
    """A row for each request of a run."""
    return to_csv(_RUN_COLUMNS, _request_rows(record))


def requests_parquet(record: BenchRecord) -> bytes:
    """The same table as a Parquet file."""
    return _parquet(_RUN_COLUMNS, _request_rows(record))


def answers_csv(record: QualityRecord) -> str:
    """A row for each answer of a quality run."""
    return to_csv(_ANSWER_COLUMNS, _answer_rows(record))


def answers_parquet(record: QualityRecord) -> bytes:
    """The same table as a Parquet file."""
    return _parquet(_ANSWER_COLUMNS, _answer_rows(record))


def audit_csv(entries: Iterable[AuditEntry]) -> str:
    """A row for each action; times in UTC."""
    return to_csv(
        _AUDIT_COLUMNS,
        (
            {
                "at": entry.at.isoformat(timespec="seconds"),
                "who": entry.who,
                "name": entry.name,
                "action": entry.action.value,
                "target": entry.target,
                "allowed": entry.allowed,
            }
            for entry in entries
        ),
    )


def _parquet(columns: Mapping[str, pa.DataType], rows: Sequence[dict[str, Any]]) -> bytes:
    table = pa.Table.from_pylist(list(rows), schema=pa.schema(list(columns.items())))
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink)
    return bytes(sink.getvalue().to_pybytes())


def _request_rows(record: BenchRecord) -> list[dict[str, Any]]:
    passes = {bench_pass.number: bench_pass for bench_pass in record.passes}
    places = {facts.lane.name: facts.place for facts in record.run.lanes}
    return [
        _request_row(record.run.id, passes[request.pass_number], request, places.get(request.lane))
        for request in record.requests
        if request.pass_number in passes
    ]


def _request_row(
    run_id: str, bench_pass: BenchPass, request: BenchRequest, place: Place | None
) -> dict[str, Any]:
    timing = request.timing
    return {
        "run_id": run_id,
        "lane": request.lane,
        "together": " + ".join(bench_pass.lanes) if bench_pass.together else None,
        "concurrency": bench_pass.level.concurrency,
        "rate_req_per_s": bench_pass.level.rate_req_per_s,
        "repeat": bench_pass.repeat,
        "request": request.number,
        "warmup": request.warmup,
        "sent_s": (timing.sent_ns - bench_pass.start_ns) * _NS if timing else None,
        "delay_s": request.delay_s,
        "ttft_s": timing.ttft_s if timing else None,
        "tpot_s": timing.tpot_s if timing else None,
        "e2e_s": timing.e2e_s if timing else None,
        "prompt_tokens": request.prompt_tokens,
        "cached_tokens": request.cached_tokens,
        "output_tokens": timing.output_tokens if timing else None,
        "chunks": len(timing.chunk_ns) if timing else None,
        "finish_reason": request.finish_reason,
        "error": request.error.code if request.error else None,
        "node": place.node if place else None,
        "over_network": place.over_network if place else None,
    }


def _answer_rows(record: QualityRecord) -> list[dict[str, Any]]:
    plan = plan_of(record.run)
    return [_answer_row(record.run.id, plan, answer) for answer in record.answers]


def _answer_row(run_id: str, plan: QualityPlan, answer: QualityAnswer) -> dict[str, Any]:
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
