"""Engines: what runs here and elsewhere, with which settings, and how to do the same by hand."""

import streamlit as st

from core.access.guard import Action, may
from core.i18n import _
from core.ui.engines.cards import show_details, show_engines
from core.ui.engines.endpoints import show_endpoints
from core.ui.engines.machine import show_audit, show_doctor, show_nodes
from core.ui.engines.quantise import show_quantisation
from core.ui.engines.walk import show_section
from core.ui.shared import resources, shell
from core.ui.shared.components import lane_label, show_tabs
from core.ui.shared.visitor import offers

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
            show_audit()
