"""The benchmark page's result: the newest run, or one that was chosen."""

from collections.abc import Collection

import streamlit as st

from core.domain.bench import RunState
from core.domain.history import HistoryEntry, HistoryFilter, RunKind
from core.errors import LMDynoError
from core.i18n import _
from core.ui.benchmark.live import FINISHED
from core.ui.benchmark.results import show_results
from core.ui.shared import resources
from core.ui.shared.components import show_error

RUN = "bench_run"
"""The widget's key, and its name in the address."""
_SHOWN = 50


def show_latest() -> None:
    """A choice among the runs that have ended, and the chosen one's result."""
    try:
        entries = resources.history().entries(HistoryFilter(kind=RunKind.BENCH), limit=_SHOWN)
        ended = {entry.id: entry for entry in entries if entry.state != RunState.RUNNING}
        if not ended:
            _show_nothing(is_running=bool(entries))
            return
        _open(ended)
        chosen = st.selectbox(
            _("Result of"),
            list(ended),
            format_func=lambda run_id: _label(ended[run_id]),
            key=RUN,
            on_change=_show_address,
        )
        with st.spinner(_("Reading the run")):
            record = resources.run_records().record(chosen)
        show_results(record, key="bench_result")
    except LMDynoError as error:
        show_error(error)


def _open(ended: Collection[str]) -> None:
    """What has just ended comes first, then what the address names."""
    named = st.query_params.get(RUN)
    if (finished := st.session_state.pop(FINISHED, None)) in ended:
        st.session_state[RUN] = finished
        st.query_params.pop(RUN, None)
    elif RUN not in st.session_state and named in ended:
        st.session_state[RUN] = named


def _show_address() -> None:
    # By hand: a bound selectbox would put its label into the address.
    st.query_params[RUN] = st.session_state[RUN]


def _show_nothing(*, is_running: bool) -> None:
    if is_running:
        return
    st.info(
        _("There are no results yet. Start the quick look above. Its result appears here in about a minute."),
        icon=":material/speed:",
    )


def _label(entry: HistoryEntry) -> str:
    lanes = ", ".join(entry.lanes)
    named = [entry.title] if lanes in entry.title else [entry.title, lanes]
    return " · ".join([f"{entry.created_at:%Y-%m-%d %H:%M} UTC", *named, _(entry.state)])
