"""Makes the summaries that the list lacks: of load tests that nobody has listed since they ended."""

from collections.abc import Sequence

import streamlit as st

from core.bench.summary import summarise
from core.domain.bench import RunState
from core.domain.history import HistoryEntry, RunKind
from core.errors import StoreError
from core.ui import history_state, resources
from core.ui.components import escape


def pending(entries: Sequence[HistoryEntry]) -> list[HistoryEntry]:
    """The ended load tests without a summary."""
    unreadable = history_state.state().unreadable
    return [
        entry
        for entry in entries
        if entry.kind is RunKind.BENCH
        and entry.summary is None
        and entry.state != RunState.RUNNING
        and entry.id not in unreadable
    ]


def show_pending(entries: Sequence[HistoryEntry]) -> None:
    """Make them one by one, then draw the list again; a click in between is served at once."""
    left = pending(entries)
    if not left:
        return
    bar = st.progress(0.0, text="Computing the figures of new load tests")
    for place, entry in enumerate(left):
        bar.progress(place / len(left), text=f"Computing the figures of {escape(entry.title)}")
        _summarise(entry)
    st.rerun()


def _summarise(entry: HistoryEntry) -> None:
    try:
        summary = summarise(resources.bench_runs().record(entry.id))
        resources.history().keep_summary(entry.id, entry.updated_at, summary)
    except StoreError:
        # The run's own page says what is wrong with it; the list shows it without figures.
        history_state.state().unreadable.add(entry.id)
