"""A walk's page: its steps, or their replay, and the report to hand in."""

import streamlit as st

from core import units
from core.codec import encode_plain
from core.domain.history import RunKind
from core.i18n import _
from core.reports.walk_html import walk_html
from core.ui.engines.walk import show_steps
from core.ui.history import entry as history_entry
from core.ui.replay.views import show_walk_replay
from core.ui.shared import resources
from core.ui.shared.components import escape
from core.ui.shared.visitor import exporting


def show_walk(walk_id: str) -> None:
    """Raises StoreError."""
    history_entry.show_way_back()
    entry = history_entry.find(walk_id, RunKind.WALK)
    run = resources.walks().run(walk_id) if entry else None
    if entry is None or run is None:
        return
    name = f"{RunKind.WALK} {run.id}"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.download_button(
            _("HTML report"),
            exporting(name, lambda: walk_html(run).encode()),
            file_name=f"walk-{run.id}.html",
            mime="text/html",
            icon=":material/download:",
            on_click="ignore",
            help=_("The tutorial's table, filled in by this machine, as one file."),
        )
        st.download_button(
            "JSON",
            exporting(name, lambda: encode_plain(run)),
            file_name=f"walk-{run.id}.json",
            mime="application/json",
            icon=":material/download:",
            on_click="ignore",
        )
        history_entry.show_entry_actions(entry)
    history_entry.show_annotation(entry)
    st.caption(f"{history_entry.moment(run.created_at)} · {escape(entry.host or units.UNKNOWN)}")
    if history_entry.wants_replay(run.id):
        show_walk_replay(run)
    else:
        show_steps(run)
    with st.expander(_("Environment"), icon=":material/developer_board:"):
        st.table(history_entry.machine_rows(run.machine), border="horizontal", width="content")
