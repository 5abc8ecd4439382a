"""Benchmark and quality runs as JSON documents, and back into a store.

What is computed (points, lanes, verdicts) is for reading. The raw facts, which an export holds and `--json`
only with `--raw`, are what an import computes everything from again.
"""

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import PurePath
from typing import Any, BinaryIO

from core.bench.plan import BenchPlan
from core.bench.results.definitions import Tool
from core.bench.results.points import Point
from core.bench.results.result import BenchResult
from core.bench.statistics import Distribution, Interval, Ratio
from core.codec import decode, encode, encode_plain
from core.domain.runs import (
    BenchPass,
    BenchRecord,
    BenchRequest,
    BenchRun,
    LaneFacts,
    LoadLevel,
    QualityAnswer,
    QualityLane,
    QualityRecord,
    QualityRun,
    RunKind,
    RunState,
)
from core.domain.turns import ErrorInfo, Machine
from core.errors import InputError, StoreError
from core.i18n import N_
from core.quality.plan import QualityPlan
from core.quality.results import AgreementScore, LaneQuality, QualityResult, TaskScore, TextComparison
from core.quality.verdict import flags, verdicts
from core.reports.exported_file import (
    ExportedFile,
    check_head,
    check_passes,
    check_schema,
    checked_answers,
    checked_requests,
    read_as,
    with_new_keys,
)
from core.store.runs import BenchRuns, QualityRuns

BENCH_SCHEMA_VERSION = 2
_QUALITY_SCHEMA_VERSION = 1
_QUALITY_KIND = "quality"
_NO_BENCH_RUN = N_("The file is not an exported run")
_NO_QUALITY_RUN = N_("The file is not an exported quality run")


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
class BenchDocument:
    """A benchmark run as a file holds it."""

    schema_version: int = BENCH_SCHEMA_VERSION
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


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityDocument:
    """A quality run as a file holds it."""

    kind: str
    schema_version: int
    id: str
    title: str
    state: RunState
    created_at: datetime
    finished_at: datetime | None
    error: ErrorInfo | None = None
    note: str = ""
    tag: str = ""
    lmdyno: str
    machine: Machine | None
    plan: QualityPlan
    reference: str
    lanes: tuple[dict[str, Any], ...]
    noise: dict[str, Any] | None = None
    verdicts: tuple[dict[str, Any], ...] = ()
    flags: tuple[dict[str, Any], ...] = ()
    facts: tuple[QualityLane, ...] = ()
    answers: tuple[QualityAnswer, ...] = ()


@dataclass(frozen=True, slots=True)
class _QualityHead:
    kind: str = ""
    schema_version: int = 0


@dataclass(frozen=True, slots=True)
class Imported:
    """The content of an imported file."""

    kind: RunKind
    run: BenchRun | QualityRun
    is_new: bool
    """False for a run that was here already; then nothing was stored."""


def bench_to_json(result: BenchResult, record: BenchRecord, *, raw: bool) -> bytes:
    """The document of a benchmark run; with `raw` it can be imported again."""
    run = result.run
    return encode_plain(
        BenchDocument(
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
                "interval_95": _interval(statistics.interval),
                "cv_ratio": statistics.cv_ratio,
                "band": statistics.stability,
            }
            for name, statistics in point.stability.items()
        },
        "notes": point.notes,
    }


@dataclass(frozen=True, slots=True)
class ExportedRun:
    """A benchmark run in a file, checked; its requests are read when they are asked for, one by one."""

    run: BenchRun
    passes: tuple[BenchPass, ...]
    _file: ExportedFile

    def requests(self) -> Iterator[BenchRequest]:
        """Raises InputError (`bad-record`) for the first that is wrong."""
        entries = (read_as(BenchRequest, item, what=_NO_BENCH_RUN) for item in self._file.entries())
        return checked_requests(entries, self.passes)


def read_bench(file: BinaryIO) -> ExportedRun:
    """The exported benchmark run in an open file, which has to stay open until its requests are read.

    Raises InputError: `bad-record` for a document that is none, `newer-schema` for one of a later version,
    `no-raw-facts` for one without timestamps, `import-too-large`.
    """
    exported = ExportedFile(file, [("raw", "requests")], what=_NO_BENCH_RUN)
    head = exported.head()
    version = read_as(_Version, head, what=_NO_BENCH_RUN).schema_version
    check_schema(version, BENCH_SCHEMA_VERSION)
    document = read_as(BenchDocument, with_new_keys(head) if version < 2 else head, what=_NO_BENCH_RUN)
    if document.raw is None:
        raise InputError(
            N_("The file contains results, but not the timestamps they were computed from."),
            hint=N_("Export with `lmdyno runs export`, or measure with `lmdyno bench --raw --json FILE`."),
            code="no-raw-facts",
        )
    run = _bench_run(document)
    lanes = [facts.lane for facts in run.lanes]
    check_head(run, lanes)
    check_passes(document.raw.passes, [lane.name for lane in lanes])
    return ExportedRun(run, document.raw.passes, exported)


def bench_from_json(data: bytes) -> BenchRecord:
    """The facts of an exported benchmark run; raises InputError like `read_bench`."""
    exported = read_bench(io.BytesIO(data))
    return BenchRecord(run=exported.run, passes=exported.passes, requests=tuple(exported.requests()))


def quality_to_json(result: QualityResult, record: QualityRecord, *, raw: bool) -> bytes:
    """The document of a quality run; with `raw` it can be imported again."""
    run = result.run
    return encode_plain(
        QualityDocument(
            kind=_QUALITY_KIND,
            schema_version=_QUALITY_SCHEMA_VERSION,
            id=run.id,
            title=run.title,
            state=run.state,
            created_at=run.created_at,
            finished_at=run.finished_at,
            error=run.error,
            note=run.note,
            tag=run.tag,
            lmdyno=run.lmdyno,
            machine=run.machine,
            plan=result.plan,
            reference=result.reference.name,
            lanes=tuple(lane_json(lane) for lane in result.lanes),
            noise=_agreement(result.noise) if result.noise else None,
            verdicts=tuple(
                {
                    "lane": verdict.lane,
                    "level": verdict.level,
                    "sentence": str(verdict.sentence),
                    "reasons": [str(reason) for reason in verdict.reasons],
                }
                for verdict in verdicts(result)
            ),
            flags=tuple(
                {"what": str(flag.subject), "by_lane": dict(flag.by_lane), "intended": flag.intended}
                for flag in flags(result)
            ),
            facts=run.lanes if raw else (),
            answers=record.answers if raw else (),
        )
    )


def lane_json(lane: LaneQuality) -> dict[str, Any]:
    """A lane's figures under the names of the documentation; null for unknown."""
    return {
        "lane": lane.name,
        "role": lane.role,
        "error": lane.facts.error,
        "engine_version": lane.facts.engine_version,
        "place": lane.facts.place,
        "tasks": _tasks(lane.tasks) if lane.tasks else None,
        "agreement": _agreement(lane.agreement) if lane.agreement else None,
        "texts": [_text(text) for text in lane.texts],
        "external": lane.facts.external,
        "timed": lane.timed,
        "ttft_s_p50": lane.ttft_p50_s,
        "decode_tok_per_s_p50": lane.decode_tok_per_s_p50,
        "energy_j_per_token": lane.energy_j_per_token,
        "memory_bytes": lane.memory_bytes,
        "weight_bytes": lane.facts.weight_bytes,
        "tokenizer": lane.facts.tokenizer,
        "same_tokenizer": lane.same_tokenizer,
        "same_template": lane.same_template,
    }


def is_quality_document(file: BinaryIO) -> bool:
    """Whether an open file is an exported quality run, of whatever version."""
    try:
        head = ExportedFile(file, [("answers",), ("raw", "requests")], what=_NO_QUALITY_RUN).head()
        return decode(_QualityHead, head).kind == _QUALITY_KIND
    except InputError:
        return False


def read_quality(file: BinaryIO) -> QualityRecord:
    """The facts of the exported quality run in an open file.

    Raises InputError: `bad-record` for a document that is none, `newer-schema` for one of a later version,
    `no-raw-facts` for one without answers and scores, `import-too-large`.
    """
    exported = ExportedFile(file, [("answers",)], what=_NO_QUALITY_RUN)
    head = exported.head()
    check_schema(decode(_QualityHead, head).schema_version, _QUALITY_SCHEMA_VERSION)
    document = decode(QualityDocument, head, otherwise=_NO_QUALITY_RUN)
    if not document.facts:
        raise InputError(
            N_("The file contains results, but not the answers they were computed from."),
            hint=N_("Export the run with `lmdyno runs export`."),
            code="no-raw-facts",
        )
    run = _quality_run(document)
    lanes = [facts.lane for facts in run.lanes]
    check_head(run, lanes)
    answers = (decode(QualityAnswer, entry, otherwise=_NO_QUALITY_RUN) for entry in exported.entries())
    return QualityRecord(run=run, answers=tuple(checked_answers(answers, [lane.name for lane in lanes])))


def import_run(file: BinaryIO, bench_runs: BenchRuns, quality_runs: QualityRuns) -> Imported:
    """Take in the run of an open file; its note and tag are left to the caller.

    Raises AccessDenied, StoreError, and InputError: `bad-record` for what is no exported run or holds values
    that can't be, `newer-schema`, `no-raw-facts`, `import-too-large`.
    """
    if is_quality_document(file):
        record = read_quality(file)
        return Imported(RunKind.QUALITY, record.run, _stored(lambda: quality_runs.add(record)))
    exported = read_bench(file)
    for _request in exported.requests():
        pass  # nothing is stored of a file of which some request is wrong
    is_new = _stored(lambda: bench_runs.take_in(exported.run, exported.passes, exported.requests()))
    return Imported(RunKind.BENCH, exported.run, is_new)


def _stored(store: Callable[[], None]) -> bool:
    try:
        store()
    except StoreError as error:
        if error.code != "run-exists":
            raise
        return False
    return True


def _bench_run(document: BenchDocument) -> BenchRun:
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


def _distribution(distribution: Distribution | None) -> dict[str, Any] | None:
    if distribution is None:
        return None
    return {
        "mean": distribution.mean,
        "mean_interval_95": _interval(distribution.interval),
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
    return {"tpot_ratio": ratio.value, "interval_95": _interval(ratio.interval)}


def _interval(interval: Interval | None) -> tuple[float, float] | None:
    """Low and high end; None for unknown."""
    return (interval.low, interval.high) if interval else None


def _quality_run(document: QualityDocument) -> QualityRun:
    return QualityRun(
        id=document.id,
        created_at=document.created_at,
        state=RunState.STOPPED if document.state is RunState.RUNNING else document.state,
        title=document.title,
        plan=encode(document.plan).decode(),
        lmdyno=document.lmdyno,
        machine=document.machine,
        lanes=document.facts,
        finished_at=document.finished_at,
        error=document.error,
        imported=True,
        note=document.note,
        tag=document.tag,
    )


def _tasks(score: TaskScore) -> dict[str, Any]:
    test = score.difference
    return {
        "outcomes": {outcome.value: count for outcome, count in score.outcomes.items()},
        "asked": score.asked,
        "accuracy_ratio": score.accuracy_ratio,
        "interval_95": _interval(score.interval),
        "differing_prompts": score.differing_prompts,
        "against_reference": None
        if test is None
        else {
            "n": test.n,
            "only_reference": test.only_reference,
            "only_lane": test.only_lane,
            "p_value": test.p_value,
            "difference_ratio": test.difference_ratio,
            "interval_95": _interval(test.interval),
        },
    }


def _agreement(score: AgreementScore) -> dict[str, Any]:
    return {
        "n": score.n,
        "identical": score.identical,
        "identical_interval_95": _interval(score.identical_interval),
        "token_ratio": score.token_ratio,
        "prefix_tokens_mean": score.prefix_tokens,
        "parts_at_p50": score.parts_at_p50,
        "differing_prompts": score.differing_prompts,
    }


def _text(text: TextComparison) -> dict[str, Any]:
    difference = text.difference
    return {
        "text": text.text,
        "method": text.method,
        "tokens": text.tokens,
        "nats_per_token": text.nats_per_token,
        "perplexity": text.perplexity,
        "difference_nats": difference.value if difference else None,
        "difference_interval_95": _interval(difference.interval) if difference else None,
        "top1_ratio": text.top1_ratio,
        "kl_nats_per_token": text.kl_nats_per_token,
        "methods_gap_nats": text.methods_gap_nats,
        "error": text.error,
    }
