"""A run's requests as a table, one row a request, for spreadsheets and data frames."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from core import csv_text
from core.domain.bench import BenchPass, BenchRecord, BenchRequest

_NS = 1e-9

_COLUMNS: Mapping[str, pa.DataType] = {
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
}
"""`sent_s` counts from the start of the request's pass, and is negative in the warm-up."""


def to_csv(record: BenchRecord) -> str:
    """With a header row; unknown is empty."""
    return csv_text.to_csv(_COLUMNS, _rows(record))


def to_parquet(record: BenchRecord) -> bytes:
    table = pa.Table.from_pylist(_rows(record), schema=pa.schema(list(_COLUMNS.items())))
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink)
    return bytes(sink.getvalue().to_pybytes())


def _rows(record: BenchRecord) -> list[dict[str, Any]]:
    passes = {each.number: each for each in record.passes}
    return [
        _row(record.run.id, passes[request.pass_number], request)
        for request in record.requests
        if request.pass_number in passes
    ]


def _row(run_id: str, bench_pass: BenchPass, request: BenchRequest) -> dict[str, Any]:
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
    }
