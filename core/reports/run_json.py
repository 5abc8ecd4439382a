"""A run as a JSON document, and back.

`points` are for reading; the raw passes and requests, which an export holds and `bench --json` only with
`--raw`, are what an import computes everything from again.
"""

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import PurePath
from typing import Any, BinaryIO, TypeVar

from core.bench.plan import BenchPlan
from core.bench.results.definitions import Tool
from core.bench.results.points import Point
from core.bench.results.result import BenchResult
from core.bench.statistics import Distribution, Interval, Ratio
from core.codec import decode, encode, encode_plain
from core.domain.runs import BenchPass, BenchRecord, BenchRequest, BenchRun, LaneFacts, LoadLevel, RunState
from core.domain.turns import ErrorInfo, Machine
from core.errors import InputError
from core.i18n import N_
from core.reports.exported_file import ExportedFile, check_head, check_passes, check_schema, checked_requests

SCHEMA_VERSION = 2

T = TypeVar("T")
_NOT_EXPORTED = N_("The file is not an exported run")
_RENAMED_KEYS = (
    (b"pictures", b"images"),
    (b"pictures_per_request", b"images_per_request"),
    (b"vary_pictures", b"vary_images"),
    (b"picture_tokens", b"image_tokens"),
    (b"sharing", b"isolation"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The machine and versions that a run was measured with."""

    lmdyno: str
    machine: Machine | None
    lanes: tuple[LaneFacts, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RawFacts:
    """Every timestamp of a run."""

    passes: tuple[BenchPass, ...]
    requests: tuple[BenchRequest, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A run as a file holds it."""

    schema_version: int = SCHEMA_VERSION
    id: str
    title: str
    state: RunState
    created_at: datetime
    finished_at: datetime | None
    error: ErrorInfo | None = None
    note: str = ""
    tag: str = ""
    environment: Environment
    plan: BenchPlan
    definition: Tool = Tool.LMDYNO
    points: tuple[dict[str, Any], ...] = ()
    speed_ups: tuple[dict[str, Any], ...] = ()
    interference: tuple[dict[str, Any], ...] = ()
    saturation: Mapping[str, int] = field(default_factory=dict)
    raw: RawFacts | None = None


@dataclass(frozen=True, slots=True)
class _Version:
    schema_version: int


def to_json(result: BenchResult, record: BenchRecord, *, raw: bool) -> bytes:
    """The document of a run; with `raw` it can be imported again."""
    run = result.run
    return encode_plain(
        Document(
            id=run.id,
            title=run.title,
            state=run.state,
            created_at=run.created_at,
            finished_at=run.finished_at,
            error=run.error,
            note=run.note,
            tag=run.tag,
            environment=Environment(lmdyno=run.lmdyno, machine=run.machine, lanes=run.lanes),
            plan=result.plan,
            definition=result.tool,
            points=tuple(point_json(point) for point in result.points),
            speed_ups=tuple(
                {
                    "lane": ratio.lane,
                    "together": ratio.together,
                    **_level(ratio.level),
                    **_ratio(ratio.tpot_ratio),
                }
                for ratio in result.speed_ups
            ),
            interference=tuple(
                {"lane": ratio.lane, **_level(ratio.level), **_ratio(ratio.tpot_ratio)}
                for ratio in result.interference
            ),
            saturation=result.saturation,
            raw=RawFacts(passes=record.passes, requests=record.requests) if raw else None,
        )
    )


def point_json(point: Point) -> dict[str, Any]:
    """A point under the names of the command line's documentation; seconds, and null for unknown."""
    counts = point.requests
    return {
        "lane": point.lane,
        "together": point.together,
        **_level(point.level),
        "repeats": point.repeats,
        "requests": {
            "ok": counts.ok,
            "failed": counts.failed,
            "cancelled": counts.cancelled,
            "by_code": counts.by_code,
        },
        "duration_s": point.duration_s,
        "ttft_s": _distribution(point.ttft_s),
        "tpot_s": _distribution(point.tpot_s),
        "itl_s": _distribution(point.itl_s),
        "icl_s": _distribution(point.icl_s),
        "e2e_s": _distribution(point.e2e_s),
        "delay_s": _distribution(point.delay_s),
        "queue_s": {"mean": point.queue_s.mean_s, "n": point.queue_s.n} if point.queue_s else None,
        "decode_tok_per_s": _distribution(point.decode_tok_per_s),
        "e2e_tok_per_s": _distribution(point.e2e_tok_per_s),
        "prompt_tokens": point.prompt_tokens,
        "images_per_request": point.images_per_request,
        "image_tokens": point.image_tokens,
        "output_tokens": point.output_tokens,
        "system_tok_per_s": point.system_tok_per_s,
        "req_per_s": point.req_per_s,
        "sent_req_per_s": point.sent_req_per_s,
        "goodput_req_per_s": point.goodput_req_per_s,
        "goodput_ratio": point.goodput_ratio,
        "energy_j": point.energy_j,
        "energy_j_per_token": point.energy_j_per_token,
        "peak_gpu_bytes": point.peak_gpu_bytes,
        "peak_resident_bytes": point.peak_resident_bytes,
        "stability": {
            name: {
                "n": statistics.n,
                "mean": statistics.mean,
                "interval_95": interval_json(statistics.interval),
                "cv_ratio": statistics.cv_ratio,
                "band": statistics.stability,
            }
            for name, statistics in point.stability.items()
        },
        "notes": point.notes,
    }


@dataclass(frozen=True, slots=True)
class ExportedRun:
    """A run in a file, checked; its requests are read when they are asked for, one by one."""

    run: BenchRun
    passes: tuple[BenchPass, ...]
    _file: ExportedFile

    def requests(self) -> Iterator[BenchRequest]:
        """Raises InputError (`bad-record`) for the first that is wrong."""
        entries = (_read(BenchRequest, item) for item in self._file.entries())
        return checked_requests(entries, self.passes)


def read_run(file: BinaryIO) -> ExportedRun:
    """The exported run in an open file, which has to stay open until its requests are read.

    Raises InputError: `bad-record` for a document that is none, `newer-schema` for one of a later version,
    `no-raw-facts` for one without timestamps, `import-too-large`.
    """
    exported = ExportedFile(file, [("raw", "requests")], what=_NOT_EXPORTED)
    head = exported.head()
    version = _read(_Version, head).schema_version
    check_schema(version, SCHEMA_VERSION)
    document = _read(Document, _renamed(head) if version < 2 else head)
    if document.raw is None:
        raise InputError(
            N_("The file contains results, but not the timestamps they were computed from."),
            hint=N_("Export with `lmdyno runs export`, or measure with `lmdyno bench --raw --json FILE`."),
            code="no-raw-facts",
        )
    run = _run_of(document)
    lanes = [facts.lane for facts in run.lanes]
    check_head(run, lanes)
    check_passes(document.raw.passes, [lane.name for lane in lanes])
    return ExportedRun(run, document.raw.passes, exported)


def from_json(data: bytes) -> BenchRecord:
    """The facts of an exported run; raises InputError like `read_run`."""
    exported = read_run(io.BytesIO(data))
    return BenchRecord(run=exported.run, passes=exported.passes, requests=tuple(exported.requests()))


def _run_of(document: Document) -> BenchRun:
    # A path names a file where it was measured, never one here.
    workload = document.plan.workload
    if workload.path is not None:
        workload = replace(workload, path=PurePath(workload.path).name or "prompts")
    return BenchRun(
        id=document.id,
        created_at=document.created_at,
        state=RunState.STOPPED if document.state is RunState.RUNNING else document.state,
        title=document.title,
        plan=encode(replace(document.plan, workload=workload)).decode(),
        lmdyno=document.environment.lmdyno,
        machine=document.environment.machine,
        lanes=document.environment.lanes,
        finished_at=document.finished_at,
        error=document.error,
        imported=True,
        note=document.note,
        tag=document.tag,
    )


def _renamed(data: bytes) -> bytes:
    """Return the document with the keys that schema 2 renamed."""
    # Inside a JSON string a quote has a backslash before it, so only keys match.
    for old, new in _RENAMED_KEYS:
        data = re.sub(rb'"%s"(?=\s*:)' % old, b'"%s"' % new, data)
    return data


def _read(kind: type[T], data: bytes) -> T:
    try:
        return decode(kind, data, otherwise=_NOT_EXPORTED)
    except InputError as error:
        raise InputError(
            error.message,
            hint=N_("Use a JSON file that was exported here or with `lmdyno runs export`."),
            code=error.code,
        ) from error


def _distribution(distribution: Distribution | None) -> dict[str, Any] | None:
    if distribution is None:
        return None
    return {
        "mean": distribution.mean,
        "mean_interval_95": interval_json(distribution.interval),
        "p50": distribution.p50,
        "p90": distribution.p90,
        "p95": distribution.p95,
        "p99": distribution.p99,
        "min": distribution.low,
        "max": distribution.high,
        "n": distribution.n,
    }


def _level(level: LoadLevel) -> dict[str, Any]:
    return {"concurrency": level.concurrency, "rate": level.rate_req_per_s}


def _ratio(ratio: Ratio) -> dict[str, Any]:
    return {"tpot_ratio": ratio.value, "interval_95": interval_json(ratio.interval)}


def interval_json(interval: Interval | None) -> tuple[float, float] | None:
    """Low and high end; None for unknown."""
    return (interval.low, interval.high) if interval else None
