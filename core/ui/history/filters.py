"""The history's filters. They stand in the address, so that a filtered list can be linked."""

from collections.abc import Sequence
from datetime import date, datetime, time, timedelta, tzinfo

import streamlit as st

from core.access.guard import is_read_only
from core.domain.history import HistoryChoices, HistoryFilter, RunKind
from core.i18n import N_, _
from core.ui.history import session as history_state

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
        lane = _choice(_("Lane"), choices.lanes, _LANE)
        model = _choice(_("Model"), choices.models, _MODEL)
        machine = _choice(_("Machine"), choices.hosts, _MACHINE)
        tag = _choice(_("Tag"), choices.tags, _TAG)
        # Not one input for both: Streamlit takes a range of one day from the address as one without an end.
        first = _day(_("From"), _FROM)
        last = _day(_("To"), _TO)
        deleted = not is_read_only() and st.toggle(
            _("Deleted"),
            key=_BIN,
            help=_("Shows deleted entries. You can restore them until the bin is emptied."),
            on_change=_first_page,
            bind="query-params",
            persist_state="session",
        )
        since, until = span(first, last, history_state.zone())
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
            st.button(_("Clear filters"), icon=":material/filter_alt_off:", type="tertiary", on_click=clear)
    return chosen


def span(first: date | None, last: date | None, zone: tzinfo) -> tuple[datetime | None, datetime | None]:
    """From the start of the first day to the end of the last one, by the visitor's clock."""
    since = datetime.combine(first, time.min, zone) if first else None
    return since, datetime.combine(last + timedelta(days=1), time.min, zone) if last else None


def clear() -> None:
    """Show everything again."""
    for key in (_KIND, _LANE, _MODEL, _MACHINE, _TAG, _FROM, _TO):
        st.session_state[key] = None
    st.session_state[_TEXT] = ""
    st.session_state[_BIN] = False
    _first_page()


def _choice(label: str, options: Sequence[str], key: str) -> str | None:
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


def _day(label: str, key: str) -> date | None:
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
    history_state.clear_selection()
