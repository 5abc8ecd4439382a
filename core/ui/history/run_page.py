"""Draw a benchmark run's page: results, plan and environment."""

import streamlit as st

from core.bench.results.comparison import Difference, everything
from core.domain.bench import BenchRecord, RunState
from core.domain.history import RunKind
from core.errors import InputError
from core.i18n import _
from core.ui.benchmark.results import show_plan, show_results
from core.ui.history import entry as history_entry
from core.ui.replay.views import show_load_replay
from core.ui.shared import resources
from core.ui.shared.components import escape


def show_run(run_id: str) -> None:
    """Raises StoreError."""
    history_entry.show_way_back()
    entry = history_entry.find(run_id, RunKind.BENCH)
    if entry is None:
        return
    with st.spinner(_("Reading the run"), show_time=True):
        record = resources.run_records().record(run_id)
    with st.container(horizontal=True):
        if record.run.state is RunState.RUNNING:
            st.button(_("Refresh"), icon=":material/refresh:", help=_("Load new results."))
        history_entry.show_entry_actions(entry)
    history_entry.show_annotation(entry)
    if record.run.state is not RunState.RUNNING and history_entry.wants_replay(run_id):
        show_load_replay(record)
    else:
        show_results(record, key=f"history_{run_id}")
    _show_facts(record)


def _show_facts(record: BenchRecord) -> None:
    """Every setting and all that is known of the environment, behind a click each."""
    try:
        result = resources.run_records().result(record)
    except InputError:  # a plan of a later version; the results have said so
        return
    settings, environment = everything([result])
    with st.expander(_("Plan"), icon=":material/assignment:"):
        show_plan(result.plan)
        st.table(_table(settings), border="horizontal", width="content")
    with st.expander(_("Environment"), icon=":material/developer_board:"):
        st.table(_table(environment), border="horizontal", width="content")


def _table(rows: tuple[Difference, ...]) -> dict[str, str]:
    """Names and values as they are exported, so as code."""
    return {_code(row.path.removeprefix("plan.")): _code(row.values[0]) for row in rows}


def _code(text: str) -> str:
    return escape(text) if not text.strip() or "`" in text else f"`{text}`"
