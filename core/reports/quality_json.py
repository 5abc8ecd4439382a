"""A quality run as a JSON document, and back.

`lanes` and `verdicts` are for reading; with `raw` the document holds every answer and score, from which an
import computes everything again.
"""

import io
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO

from core.codec import decode, encode, encode_plain
from core.domain.runs import QualityAnswer, QualityLane, QualityRecord, QualityRun, RunState
from core.domain.turns import ErrorInfo, Machine
from core.errors import InputError
from core.i18n import N_
from core.quality.plan import QualityPlan
from core.quality.results import AgreementScore, LaneQuality, QualityResult, TaskScore, TextComparison
from core.quality.verdict import flags, verdicts
from core.reports.exported_file import ExportedFile, check_head, check_schema, checked_answers
from core.reports.run_json import interval_json

_NOT_EXPORTED = N_("The file is not an exported quality run")
KIND = "quality"
SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A run as a file holds it."""

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
class _Head:
    kind: str = ""
    schema_version: int = 0


def to_json(result: QualityResult, record: QualityRecord, *, raw: bool) -> bytes:
    """The document of a run; with `raw` it can be imported again."""
    run = result.run
    return encode_plain(
        Document(
            kind=KIND,
            schema_version=SCHEMA_VERSION,
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
        head = ExportedFile(file, [("answers",), ("raw", "requests")], what=_NOT_EXPORTED).head()
        return decode(_Head, head).kind == KIND
    except InputError:
        return False


def read_run(file: BinaryIO) -> QualityRecord:
    """The facts of the exported run in an open file.

    Raises InputError: `bad-record` for a document that is none, `newer-schema` for one of a later version,
    `no-raw-facts` for one without answers and scores, `import-too-large`.
    """
    exported = ExportedFile(file, [("answers",)], what=_NOT_EXPORTED)
    head = exported.head()
    check_schema(decode(_Head, head).schema_version, SCHEMA_VERSION)
    document = decode(Document, head, otherwise=_NOT_EXPORTED)
    if not document.facts:
        raise InputError(
            N_("The file contains results, but not the answers they were computed from."),
            hint=N_("Export the run with `lmdyno runs export`."),
            code="no-raw-facts",
        )
    run = _run_of(document)
    lanes = [facts.lane for facts in run.lanes]
    check_head(run, lanes)
    answers = (decode(QualityAnswer, entry, otherwise=_NOT_EXPORTED) for entry in exported.entries())
    return QualityRecord(run=run, answers=tuple(checked_answers(answers, [lane.name for lane in lanes])))


def from_json(data: bytes) -> QualityRecord:
    """The facts of an exported run; raises InputError like `read_run`."""
    return read_run(io.BytesIO(data))


def _run_of(document: Document) -> QualityRun:
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
        "interval_95": interval_json(score.interval),
        "differing_prompts": score.differing_prompts,
        "against_reference": None
        if test is None
        else {
            "n": test.n,
            "only_reference": test.only_reference,
            "only_lane": test.only_lane,
            "p_value": test.p_value,
            "difference_ratio": test.difference_ratio,
            "interval_95": interval_json(test.interval),
        },
    }


def _agreement(score: AgreementScore) -> dict[str, Any]:
    return {
        "n": score.n,
        "identical": score.identical,
        "identical_interval_95": interval_json(score.identical_interval),
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
        "difference_interval_95": interval_json(difference.interval) if difference else None,
        "top1_ratio": text.top1_ratio,
        "kl_nats_per_token": text.kl_nats_per_token,
        "methods_gap_nats": text.methods_gap_nats,
        "error": text.error,
    }
