"""The place of a session in the history: the address, the last action, and the list's filters.

The address names one entry, `?compare=…,…`, or none of them. The filters stand in it too, so that a filtered
list can be linked.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from urllib.parse import quote, urlencode, urlsplit, urlunsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import streamlit as st

from core.access.guard import is_read_only
from core.domain.runs import HistoryChoices, HistoryEntry, HistoryFilter, RunKind
from core.domain.turns import ErrorInfo
from core.i18n import N_, _

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

PAGE = "history_page"
_KIND = "history_kind"
_TEXT = "history_text"
_LANE = "history_lane"
_MODEL = "history_model"
_MACHINE = "history_machine"
_TAG = "history_tag"
_FROM = "history_from"
_TO = "history_to"
_BIN = "history_bin"
_CONTROL_WIDTH_PX = 150
_KINDS = {
    RunKind.CHAT: N_("Turns"),
    RunKind.BENCH: N_("Benchmarks"),
    RunKind.QUALITY: N_("Quality"),
    RunKind.WALK: N_("Walks"),
    RunKind.QUIZ: N_("Quizzes"),
    RunKind.SWEEP: N_("Memory sweeps"),
}
"""In the address stands the label, in the language of whoever chose it."""


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


def show_filters(choices: HistoryChoices) -> HistoryFilter:
    """Draw the filters; returns what they ask for."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        kind = st.segmented_control(
            _("Kind"),
            list(_KINDS),
            format_func=lambda kind: _(_KINDS[kind]),
            key=_KIND,
            width="content",
            on_change=_first_page,
            bind="query-params",
            persist_state="session",
        )
        text = st.text_input(
            _("Search"),
            key=_TEXT,
            placeholder=_("Prompt, title, or note"),
            icon=":material/search:",
            width=260,
            on_change=_first_page,
            bind="query-params",
            persist_state="session",
        )
        lane = _show_choice(_("Lane"), choices.lanes, _LANE)
        model = _show_choice(_("Model"), choices.models, _MODEL)
        machine = _show_choice(_("Machine"), choices.hosts, _MACHINE)
        tag = _show_choice(_("Tag"), choices.tags, _TAG)
        # Not one input for both: Streamlit takes a range of one day from the address as one without an end.
        first = _show_day(_("From"), _FROM)
        last = _show_day(_("To"), _TO)
        deleted = not is_read_only() and st.toggle(
            _("Deleted"),
            key=_BIN,
            help=_("Shows deleted entries. You can restore them until the bin is emptied."),
            on_change=_first_page,
            bind="query-params",
            persist_state="session",
        )
        since, until = time_span(first, last, zone())
        chosen = HistoryFilter(
            kind=kind,
            lane=lane,
            model=model,
            host=machine,
            tag=tag,
            text=text.strip(),
            since=since,
            until=until,
            deleted=deleted,
        )
        if chosen != HistoryFilter():
            st.button(
                _("Clear filters"), icon=":material/filter_alt_off:", type="tertiary", on_click=clear_filters
            )
    return chosen


def time_span(first: date | None, last: date | None, zone: tzinfo) -> tuple[datetime | None, datetime | None]:
    """From the start of the first day to the end of the last one, by the visitor's clock."""
    since = datetime.combine(first, time.min, zone) if first else None
    return since, datetime.combine(last + timedelta(days=1), time.min, zone) if last else None


def clear_filters() -> None:
    """Show everything again."""
    for key in (_KIND, _LANE, _MODEL, _MACHINE, _TAG, _FROM, _TO):
        st.session_state[key] = None
    st.session_state[_TEXT] = ""
    st.session_state[_BIN] = False
    _first_page()


def _show_choice(label: str, options: Sequence[str], key: str) -> str | None:
    return st.selectbox(
        label,
        options,
        index=None,
        key=key,
        placeholder=_("Any"),
        width=_CONTROL_WIDTH_PX,
        disabled=not options,
        on_change=_first_page,
        bind="query-params",
        persist_state="session",
    )


def _show_day(label: str, key: str) -> date | None:
    return st.date_input(
        label,
        value=None,
        key=key,
        format="YYYY-MM-DD",
        width=_CONTROL_WIDTH_PX,
        on_change=_first_page,
        bind="query-params",
        persist_state="session",
    )


def _first_page() -> None:
    st.session_state[PAGE] = 1
    clear_selection()
