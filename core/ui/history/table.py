"""Entries of the history as a table: plain data, one row an entry."""

from collections.abc import Callable, Sequence

import pyarrow as pa

from core import units
from core.bench.results.comparison import MAX_RUNS
from core.domain.history import HistoryEntry, LaneSummary, RunKind, Summary
from core.i18n import N_, Text, _

KIND_NAMES = {
    RunKind.CHAT: N_("Turn"),
    RunKind.BENCH: N_("Benchmark"),
    RunKind.QUALITY: N_("Quality"),
    RunKind.WALK: N_("Walk"),
    RunKind.QUIZ: N_("Quiz"),
    RunKind.SWEEP: N_("Memory sweep"),
}
OPEN = ":material/open_in_full:"
_STATES: dict[str, Text] = {
    text: text for text in (N_("running"), N_("done"), N_("stopped"), N_("failed"), N_("cancelled"))
}

_COMPARABLE = frozenset({RunKind.BENCH, RunKind.QUALITY})
_TEXTS = pa.list_(pa.string())
SCHEMA = pa.schema(
    {
        "open": pa.string(),
        "when": pa.timestamp("us", tz="UTC"),
        "kind": pa.string(),
        "title": pa.string(),
        "lanes": _TEXTS,
        "ttft": _TEXTS,
        "decode": _TEXTS,
        "failed": pa.string(),
        "state": pa.string(),
        "tag": pa.string(),
        "note": pa.string(),
        "models": _TEXTS,
        "machine": pa.string(),
    }
)


def rows(entries: Sequence[HistoryEntry]) -> pa.Table:
    """The table of these entries; figures of lanes stand in the lanes' order."""
    return pa.Table.from_pylist([_row(entry) for entry in entries], schema=SCHEMA)


def failures(summary: Summary | None) -> str:
    """`2 of 40`: requests that failed, of all that were answered or failed."""
    if summary is None:
        return units.UNKNOWN
    return _(
        "{part} of {total}",
        part=units.count(summary.failed),
        total=units.count(summary.answered + summary.failed),
    )


def comparable(entries: Sequence[HistoryEntry]) -> bool:
    """Whether all of them are runs of one kind, and as many as can be compared."""
    kinds = {entry.kind for entry in entries}
    return 2 <= len(entries) <= MAX_RUNS and len(kinds) == 1 and kinds <= _COMPARABLE


def _row(entry: HistoryEntry) -> dict[str, object]:
    return {
        "open": OPEN,
        "when": entry.created_at,
        "kind": _kind(entry),
        "title": _(entry.title),
        "lanes": entry.lanes,
        "ttft": _figures(entry.summary, lambda lane: units.milliseconds(lane.ttft_s)),
        "decode": _figures(entry.summary, lambda lane: _speed(lane.decode_tok_per_s)),
        "failed": failures(entry.summary),
        "state": _(_STATES.get(entry.state, entry.state)),
        "tag": entry.tag,
        "note": " ".join(entry.note.split()),
        "models": entry.models,
        "machine": entry.host,
    }


def _kind(entry: HistoryEntry) -> str:
    name = KIND_NAMES[entry.kind]
    return _("{kind} with images", kind=name) if entry.with_images else _(name)


def _figures(summary: Summary | None, text: Callable[[LaneSummary], str]) -> list[str]:
    return [text(lane) for lane in summary.lanes] if summary else []


def _speed(tok_per_s: float | None) -> str:
    return units.tok_per_s(tok_per_s).removesuffix(" tok/s")
