"""The place of a session in the history, by the page's address, and its last action.

The address names one entry, `?compare=…,…`, or none of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, tzinfo
from urllib.parse import quote, urlencode, urlsplit, urlunsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import streamlit as st

from core.domain.history import HistoryEntry, RunKind
from core.domain.turns import ErrorInfo

RUN = "run"
TURN = "turn"
QUALITY = "quality"
WALK = "walk"
QUIZ = "quiz"
SWEEP = "sweep"
COMPARE = "compare"
BASELINE = "baseline"
REPLAY = "replay"
"""With an entry: it opens with its replay."""

_STATE = "history_state"
QUERY_OF = {
    RunKind.CHAT: TURN,
    RunKind.BENCH: RUN,
    RunKind.QUALITY: QUALITY,
    RunKind.WALK: WALK,
    RunKind.QUIZ: QUIZ,
    RunKind.SWEEP: SWEEP,
}
"""The name of each kind of entry in an address."""


@dataclass(frozen=True, slots=True)
class Address:
    """One of the first seven is set, or none for the list."""

    run: str | None = None
    turn: str | None = None
    quality: str | None = None
    walk: str | None = None
    quiz: str | None = None
    sweep: str | None = None
    compare: tuple[str, ...] = ()
    """Ids of runs of one kind, each once."""
    baseline: str | None = None
    """The one of them that the others are held against."""


def parse(query: Mapping[str, str]) -> Address:
    """The first entry or comparison that the query names; what can't be an id stays as it is."""
    if run := query.get(RUN, "").strip():
        return Address(run=run)
    if turn := query.get(TURN, "").strip():
        return Address(turn=turn)
    if quality := query.get(QUALITY, "").strip():
        return Address(quality=quality)
    if walk := query.get(WALK, "").strip():
        return Address(walk=walk)
    if quiz := query.get(QUIZ, "").strip():
        return Address(quiz=quiz)
    if sweep := query.get(SWEEP, "").strip():
        return Address(sweep=sweep)
    named = (part.strip() for part in query.get(COMPARE, "").split(","))
    compare = tuple(dict.fromkeys(part for part in named if part))
    return Address(compare=compare, baseline=query.get(BASELINE, "").strip() or None if compare else None)


def link(url: str | None, query: Mapping[str, str | Sequence[str]]) -> str:
    """The address of a view; relative to the page if the page's own is not known."""
    text = urlencode(
        {
            name: value if isinstance(value, str) else ",".join(value)
            for name, value in query.items()
            if value
        },
        safe=",",
        quote_via=quote,
    )
    parts = urlsplit(url or "")
    return urlunsplit((parts.scheme, parts.netloc, parts.path, text, ""))


@dataclass(slots=True)
class HistoryState:
    """State that a session keeps between two runs of the script."""

    deleted: tuple[HistoryEntry, ...] = ()
    """Entries deleted last; one click brings them back."""
    problem: ErrorInfo | None = None
    """The error of the last action."""
    message: str = ""
    """The outcome of the last action, in Markdown."""
    round: int = 0
    """Counted up by whatever ends a selection in the table."""
    unreadable: set[str] = field(default_factory=set)
    """Load tests that could not be summarised; not tried again in this session."""


def state() -> HistoryState:
    kept: HistoryState = st.session_state.setdefault(_STATE, HistoryState())
    return kept


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
