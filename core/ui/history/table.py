"""Entries of the history as a table: plain data, one row an entry."""

from collections.abc import Callable, Sequence

import pyarrow as pa

from core import units
from core.bench.results.comparison import MAX_RUNS
from core.domain.history import HistoryEntry, LaneSummary, RunKind, Summary

KIND_NAMES = {RunKind.CHAT: "Turn", RunKind.BENCH: "Load test", RunKind.QUALITY: "Quality"}
OPEN = ":material/open_in_full:"

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
    return f"{summary.failed:,} of {summary.answered + summary.failed:,}"


def comparable(entries: Sequence[HistoryEntry]) -> bool:
    """Whether all of them are runs of one kind, and as many as can be compared."""
    kinds = {entry.kind for entry in entries}
    return 2 <= len(entries) <= MAX_RUNS and len(kinds) == 1 and RunKind.CHAT not in kinds


def _row(entry: HistoryEntry) -> dict[str, object]:
    return {
        "open": OPEN,
        "when": entry.created_at,
        "kind": f"{KIND_NAMES[entry.kind]}{' with images' if entry.with_images else ''}",
        "title": entry.title,
        "lanes": entry.lanes,
        "ttft": _figures(entry.summary, lambda lane: units.milliseconds(lane.ttft_s)),
        "decode": _figures(entry.summary, lambda lane: _speed(lane.decode_tok_per_s)),
        "failed": failures(entry.summary),
        "state": entry.state,
        "tag": entry.tag,
        "note": " ".join(entry.note.split()),
        "models": entry.models,
        "machine": entry.host,
    }


def _figures(summary: Summary | None, text: Callable[[LaneSummary], str]) -> list[str]:
    return [text(lane) for lane in summary.lanes] if summary else []


def _speed(tok_per_s: float | None) -> str:
    return units.tok_per_s(tok_per_s).removesuffix(" tok/s")
