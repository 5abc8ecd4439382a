"""The statements behind the history: which entries fit, and what a list shows of them.

Each function takes an open connection or returns a statement; a few statements each, however many entries.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    Table,
    Text,
    false,
    func,
    literal,
    null,
    or_,
    select,
    type_coerce,
)

from core.domain.history import HistoryEntry, HistoryFilter, LaneSummary, RunKind, Summary
from core.domain.runs import RunState
from core.domain.specs import LaneSpec
from core.domain.turns import FinishReason, Phase
from core.store.access import listed
from core.store.run_tables import is_interrupted
from core.store.tables import (
    annotations,
    bench_lanes,
    bench_runs,
    bench_summaries,
    lanes,
    machines,
    quality_lanes,
    quality_runs,
    quiz_lanes,
    quizzes,
    requests,
    sweep_lanes,
    sweeps,
    turns,
    walk_lanes,
    walks,
)

SUMMARY_VERSION = 1
"""Of the formulas behind a load test's summary; summaries of another version are made anew."""
_TITLE_CHARS = 120
TABLES: Mapping[RunKind, Table] = {
    RunKind.CHAT: turns,
    RunKind.BENCH: bench_runs,
    RunKind.QUALITY: quality_runs,
    RunKind.WALK: walks,
    RunKind.QUIZ: quizzes,
    RunKind.SWEEP: sweeps,
}
_LANES: Mapping[RunKind, Table] = {
    RunKind.BENCH: bench_lanes,
    RunKind.QUALITY: quality_lanes,
    RunKind.WALK: walk_lanes,
    RunKind.QUIZ: quiz_lanes,
    RunKind.SWEEP: sweep_lanes,
}
"""Of the kinds that are runs: which lanes took part in each."""


def part(kind: RunKind, conditions: Iterable[ColumnElement[bool]]) -> Select[Any]:
    """The rows of one kind under these conditions, newest first."""
    table = TABLES[kind]
    is_run = kind in _LANES
    return (
        select(
            literal(kind.value).label("kind"),
            table.c.id,
            table.c.created_at,
            func.substr(_title(kind), 1, _TITLE_CHARS).label("title"),
            machines.c.host,
            annotations.c.note,
            annotations.c.tag,
            annotations.c.deleted_at,
            table.c.owner,
            # A turn has no state of its own, and nothing asks when it was updated.
            (type_coerce(table.c.state, Text) if is_run else literal("")).label("state"),
            (table.c.updated_at if is_run else turns.c.created_at).label("updated_at"),
            (false() if is_run else _saw_images()).label("with_images"),
        )
        .select_from(table)
        .outerjoin(machines, machines.c.id == table.c.machine_id)
        .outerjoin(annotations, (annotations.c.kind == kind) & (annotations.c.item_id == table.c.id))
        .where(*conditions)
        .order_by(table.c.created_at.desc(), table.c.id)
    )


def conditions(kind: RunKind, chosen: HistoryFilter) -> list[ColumnElement[bool]]:
    """Return what `wanted` asks of the rows of a kind, and which of them whoever acts may see in lists."""
    table = TABLES[kind]
    is_deleted = annotations.c.deleted_at.is_not(None)
    terms: list[ColumnElement[bool]] = [
        listed(table.c.owner),
        is_deleted if chosen.deleted else ~is_deleted,
    ]
    if chosen.since is not None:
        terms.append(table.c.created_at >= chosen.since)
    if chosen.until is not None:
        terms.append(table.c.created_at < chosen.until)
    if chosen.host is not None:
        terms.append(machines.c.host == chosen.host)
    if chosen.tag is not None:
        terms.append(annotations.c.tag == chosen.tag)
    if chosen.text:
        terms.append(
            or_(
                _title(kind).icontains(chosen.text, autoescape=True),
                annotations.c.note.icontains(chosen.text, autoescape=True),
            )
        )
    if chosen.lane is not None or chosen.model is not None:
        terms.append(_has_lane(kind, chosen))
    return terms


def _has_lane(kind: RunKind, chosen: HistoryFilter) -> ColumnElement[bool]:
    took_part = _lanes_of_turn() if kind is RunKind.CHAT else _lanes_of_run(kind)
    if chosen.lane is not None:
        took_part = took_part.where(lanes.c.name == chosen.lane)
    if chosen.model is not None:
        took_part = took_part.where(lanes.c.model == chosen.model)
    return took_part.exists()


def _lanes_of_turn() -> Select[Any]:
    return (
        select(lanes.c.id)
        .join(requests, requests.c.lane_id == lanes.c.id)
        .where(requests.c.turn_id == turns.c.id)
        .correlate(turns)
    )


def _lanes_of_run(kind: RunKind) -> Select[Any]:
    table, part_of = TABLES[kind], _LANES[kind]
    return (
        select(lanes.c.id)
        .join(part_of, part_of.c.lane_id == lanes.c.id)
        .where(part_of.c.run_id == table.c.id)
        .correlate(table)
    )


def _saw_images() -> ColumnElement[bool]:
    """Whether the turn's prompt had images, its own ones or those of earlier turns."""
    earlier = turns.alias()
    return (
        select(earlier.c.id)
        .where(
            earlier.c.conversation_id == turns.c.conversation_id,
            earlier.c.created_at <= turns.c.created_at,
            earlier.c.images.is_not(null()),
        )
        .correlate(turns)
        .exists()
    )


def entries(connection: Connection, rows: Sequence[Row[Any]]) -> tuple[HistoryEntry, ...]:
    """The rows of `part` as entries, in their order."""
    turn_ids = [row.id for row in rows if row.kind == RunKind.CHAT]
    run_ids = [row.id for row in rows if row.kind == RunKind.BENCH]
    answers = _answers(connection, turn_ids)
    took_part = {turn_id: [row.spec for row in lane_answers] for turn_id, lane_answers in answers.items()}
    for kind, part_of in _LANES.items():
        took_part |= _run_lanes(connection, part_of, [row.id for row in rows if row.kind == kind])
    summaries = {turn_id: _turn_summary(lane_answers) for turn_id, lane_answers in answers.items()}
    summaries |= _kept_summaries(connection, run_ids)
    return tuple(
        HistoryEntry(
            kind=RunKind(row.kind),
            id=row.id,
            created_at=row.created_at,
            updated_at=row.updated_at,
            title=" ".join(row.title.split()),
            lanes=tuple(lane.name for lane in took_part.get(row.id, ())),
            models=tuple(
                dict.fromkeys(model for lane in took_part.get(row.id, ()) if (model := _model(lane)))
            ),
            with_images=row.with_images,
            host=row.host,
            state=_turn_state(answers.get(row.id, ())) if row.kind == RunKind.CHAT else _run_state(row),
            note=row.note or "",
            tag=row.tag or "",
            deleted_at=row.deleted_at,
            owner=row.owner,
            summary=summaries.get(row.id),
        )
        for row in rows
    )


def _title(kind: RunKind) -> ColumnElement[str]:
    return turns.c.prompt if kind is RunKind.CHAT else TABLES[kind].c.title


def _run_lanes(connection: Connection, part_of: Table, ids: list[str]) -> dict[str, list[LaneSpec]]:
    chosen = (
        select(part_of.c.run_id, lanes.c.spec)
        .join(lanes, lanes.c.id == part_of.c.lane_id)
        .where(part_of.c.run_id.in_(ids))
        .order_by(part_of.c.position)
    )
    by_run: dict[str, list[LaneSpec]] = {}
    for row in connection.execute(chosen):
        by_run.setdefault(row.run_id, []).append(row.spec)
    return by_run


def _answers(connection: Connection, ids: list[str]) -> dict[str, list[Row[Any]]]:
    """Of each turn its requests' lanes, ends and timestamps, in the order in which they were planned."""
    chosen: Select[Any] = (
        select(
            requests.c.turn_id,
            lanes.c.spec,
            requests.c.phase,
            requests.c.finish_reason,
            requests.c.timing,
        )
        .join(lanes, lanes.c.id == requests.c.lane_id)
        .where(requests.c.turn_id.in_(ids))
        .order_by(requests.c.position)
    )
    by_turn: dict[str, list[Row[Any]]] = {}
    for row in connection.execute(chosen):
        by_turn.setdefault(row.turn_id, []).append(row)
    return by_turn


def _turn_summary(answers: Sequence[Row[Any]]) -> Summary:
    ended = [row.finish_reason for row in answers if row.phase is Phase.DONE]
    failed = ended.count(FinishReason.ERROR)
    return Summary(
        lanes=tuple(
            LaneSummary(
                lane=row.spec.name,
                ttft_s=row.timing.ttft_s if row.timing else None,
                decode_tok_per_s=row.timing.decode_tok_per_s if row.timing else None,
            )
            for row in answers
        ),
        answered=len(ended) - failed - ended.count(FinishReason.CANCELLED),
        failed=failed,
    )


def _turn_state(answers: Sequence[Row[Any]]) -> str:
    """`failed` if any answer failed, else `running` if any is open, else `done`."""
    if any(row.finish_reason is FinishReason.ERROR for row in answers):
        return RunState.FAILED.value
    is_open = any(row.phase is not Phase.DONE for row in answers)
    return RunState.RUNNING.value if is_open else RunState.DONE.value


def _kept_summaries(connection: Connection, ids: list[str]) -> dict[str, Summary]:
    """The summaries that are still true of these load tests."""
    chosen = (
        select(bench_summaries.c.run_id, bench_summaries.c.facts)
        .join(bench_runs, bench_runs.c.id == bench_summaries.c.run_id)
        .where(
            bench_summaries.c.run_id.in_(ids),
            bench_summaries.c.version == SUMMARY_VERSION,
            bench_summaries.c.run_updated_at == bench_runs.c.updated_at,
        )
    )
    return {row.run_id: row.facts for row in connection.execute(chosen)}


def _run_state(row: Row[Any]) -> str:
    state = RunState(row.state)
    return (RunState.FAILED if is_interrupted(state, row.updated_at) else state).value


def _model(lane: LaneSpec) -> str | None:
    if lane.model:
        return lane.model.name
    return lane.endpoint.model if lane.endpoint else None
