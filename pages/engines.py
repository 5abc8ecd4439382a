"""Engines: what runs here and elsewhere, with which settings, how to do it by hand, and the audit log."""

from math import ceil

import pyarrow as pa
import streamlit as st

from core.access.guard import ACTION_NAMES, Action, may
from core.errors import StoreError
from core.i18n import _, ngettext
from core.reports.tables import audit_csv
from core.ui.engines.cards import show_details, show_engines
from core.ui.engines.endpoints import show_endpoints
from core.ui.engines.quantise import show_quantisation
from core.ui.engines.status import show_doctor, show_nodes
from core.ui.engines.walk import show_section
from core.ui.shared import resources, shell
from core.ui.shared.components import lane_label, show_error, show_tabs
from core.ui.shared.visitor import offers, show_export

_PAGE_SIZE = 50
_PAGE = "audit_page"


def _show_audit() -> None:
    """The newest entries as a table, with older ones by page; the whole log as CSV."""
    try:
        count = resources.audit().count()
        if not count:
            st.info(_("There are no changes yet."), icon=":material/shield_person:")
            return
        page = _show_audit_bar(count)
        entries = resources.audit().entries(limit=_PAGE_SIZE, offset=(page - 1) * _PAGE_SIZE)
    except StoreError as error:
        show_error(error)
        return
    st.dataframe(
        pa.table(
            {
                "at": pa.array([entry.at for entry in entries], pa.timestamp("s", tz="UTC")),
                "name": [entry.name for entry in entries],
                "who": [entry.who for entry in entries],
                "action": [_(ACTION_NAMES[entry.action]) for entry in entries],
                "target": [entry.target for entry in entries],
                "allowed": [_("done") if entry.allowed else _("refused") for entry in entries],
            }
        ),
        hide_index=True,
        height="content",
        column_config={
            "at": st.column_config.DatetimeColumn(_("Date"), format="YYYY-MM-DD HH:mm:ss"),
            "name": _("Who"),
            "who": _("Account"),
            "action": _("Action"),
            "target": _("Target"),
            "allowed": _("Result"),
        },
        alt=_("Actions, newest first"),
    )


def _show_audit_bar(count: int) -> int:
    """The number of entries and the export; returns the chosen page."""
    pages = ceil(count / _PAGE_SIZE)
    if st.session_state.get(_PAGE, 1) > pages:
        st.session_state[_PAGE] = pages
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.caption(ngettext("{n} action", "{n} actions", count), width="content")
        page = st.pagination(pages, key=_PAGE)
        show_export(
            "CSV", "audit log", lambda: audit_csv(resources.audit().entries()), file_name="lmdyno-audit.csv"
        )
    return page


shell.require()

labels = [
    f":material/memory: {_('Engines')}",
    f":material/cloud: {_('Endpoints')}",
    f":material/compress: {_('Quantise (W4A16)')}",
    f":material/hiking: {_('Walk')}",
    f":material/stethoscope: {_('This machine')}",
]
if may(Action.READ_AUDIT):
    labels.append(f":material/shield_person: {_('Audit log')}")
engines, endpoints, quantisation, walk, machine, *audit = show_tabs(labels, key="engines_section")

if engines.open:
    with engines:
        show_engines()
        show_nodes()
        names = [lane.name for lane in resources.lanes().lanes]
        chosen = st.segmented_control(
            _("Details of"),
            names,
            format_func=lane_label,
            default=names[0],
            required=True,
            key="engines_lane",
            persist_state="session",
        )
        show_details(resources.lanes().lane(chosen))

if endpoints.open:
    with endpoints:
        show_endpoints()

if quantisation.open:
    with quantisation:
        if offers(Action.START_JOB):
            show_quantisation()

if walk.open:
    with walk:
        show_section()

if machine.open:
    with machine:
        show_doctor()

for tab in audit:
    if tab.open:
        with tab:
            _show_audit()
