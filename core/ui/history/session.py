"""Where a session is in the history: list, run, turn or comparison; and what it did last."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import streamlit as st

from core.domain.history import HistoryEntry, RunKind
from core.domain.turns import ErrorInfo
from core.ui.history.address import (
    BASELINE,
    COMPARE,
    QUALITY,
    QUIZ,
    REPLAY,
    RUN,
    SWEEP,
    TURN,
    WALK,
    Address,
    link,
    parse,
)

_STATE = "history_state"
QUERY_OF = {
    RunKind.CHAT: TURN,
    RunKind.BENCH: RUN,
    RunKind.QUALITY: QUALITY,
    RunKind.WALK: WALK,
    RunKind.QUIZ: QUIZ,
    RunKind.SWEEP: SWEEP,
}
"""What an address calls the entries of each kind."""


@dataclass(slots=True)
class HistoryState:
    """What a session remembers between two runs of the script."""

    deleted: tuple[HistoryEntry, ...] = ()
    """What was deleted last and can be brought back with one click."""
    problem: ErrorInfo | None = None
    """Why the last action failed."""
    message: str = ""
    """What the last action did, in Markdown."""
    round: int = 0
    """Counted up by whatever ends a selection in the table."""
    unreadable: set[str] = field(default_factory=set)
    """Load tests that could not be summarised; not tried again in this session."""


def state() -> HistoryState:
    found: HistoryState = st.session_state.setdefault(_STATE, HistoryState())
    return found


def address() -> Address:
    return parse(st.query_params.to_dict())


def open_entry(entry: HistoryEntry) -> None:
    show_list()
    st.query_params[QUERY_OF[entry.kind]] = entry.id


def open_run(run_id: str, kind: RunKind = RunKind.BENCH) -> None:
    show_list()
    st.query_params[QUERY_OF[kind]] = run_id


def open_comparison(run_ids: Sequence[str]) -> None:
    show_list()
    st.query_params[COMPARE] = ",".join(run_ids)


def show_list() -> None:
    for name in (*QUERY_OF.values(), COMPARE, BASELINE, REPLAY):
        st.query_params.pop(name, None)
    clear_selection()


def clear_selection() -> None:
    state().round += 1


def done(message: str = "", *, deleted: Iterable[HistoryEntry] = ()) -> None:
    """An action has ended well; what the one before it said is over."""
    now = state()
    now.problem, now.message, now.deleted = None, message, tuple(deleted)
    clear_selection()


def zone() -> tzinfo:
    """The visitor's time zone; UTC where the browser does not say."""
    try:
        return ZoneInfo(st.context.timezone or "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        return UTC


def link_to(**query: str | Sequence[str]) -> str:
    """The whole address of a view of this page."""
    return link(st.context.url, query)
