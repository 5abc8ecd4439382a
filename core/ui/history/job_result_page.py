"""The pages of a quiz and of a memory sweep."""

from typing import TypeVar

import streamlit as st

from core import units
from core.codec import decode
from core.domain.history import HistoryEntry, RunKind
from core.domain.turns import Machine
from core.errors import InputError
from core.i18n import _
from core.image_quiz.results import QuizRun
from core.memory_sweep.results import SweepRun
from core.ui.history import entry as history_entry
from core.ui.memory.sweep_points import show_points
from core.ui.quiz.results import show_results
from core.ui.shared import resources
from core.ui.shared.components import escape, show_error

Run = TypeVar("Run", QuizRun, SweepRun)


def show_quiz(quiz_id: str) -> None:
    """Raises StoreError."""
    entry, run = _read(RunKind.QUIZ, quiz_id, QuizRun)
    if entry is None or run is None:
        return
    _show_head(entry)
    show_results(run, drill_down=True)
    _show_environment(run.machine)


def show_sweep(sweep_id: str) -> None:
    """Raises StoreError."""
    entry, run = _read(RunKind.SWEEP, sweep_id, SweepRun)
    if entry is None or run is None:
        return
    _show_head(entry)
    show_points(sweep_id, run, export=True)
    _show_environment(run.machine)


def _read(kind: RunKind, result_id: str, record: type[Run]) -> tuple[HistoryEntry | None, Run | None]:
    """The entry and its result; says why if one of them can't be shown."""
    history_entry.show_way_back()
    entry = history_entry.find(result_id, kind)
    facts = resources.job_results().facts(kind, result_id) if entry else None
    if facts is None:
        return None, None
    try:
        return entry, decode(record, facts)
    except InputError as error:  # of a later version
        show_error(error)
        return entry, None


def _show_head(entry: HistoryEntry) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        history_entry.show_entry_actions(entry)
    history_entry.show_annotation(entry)
    st.subheader(escape(_(entry.title)), anchor=False)
    st.caption(f"{history_entry.moment(entry.created_at)} · {escape(entry.host or units.UNKNOWN)}")


def _show_environment(machine: Machine | None) -> None:
    with st.expander(_("Environment"), icon=":material/developer_board:"):
        st.table(history_entry.machine_rows(machine), border="horizontal", width="content")
