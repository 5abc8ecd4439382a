"""Memory: where it goes now, where it would go, and how well that can be foretold."""

import streamlit as st

from core.i18n import _
from core.ui.memory.explorer import show_explorer, show_order
from core.ui.memory.measured import show_live, show_split, show_sweep
from core.ui.shared import shell
from core.ui.shared.components import show_tabs

shell.require()

live, explorer, order, sweep = show_tabs(
    [
        f":material/monitoring: {_('Live')}",
        f":material/calculate: {_('KV cache explorer')}",
        f":material/stacks: {_('Several engines')}",
        f":material/tune: {_('Sweep')}",
    ],
    key="memory_section",
)

if live.open:
    with live:
        show_live()
        st.subheader(_("Memory breakdown"), anchor=False)
        show_split()

if explorer.open:
    with explorer:
        show_explorer()

if order.open:
    with order:
        show_order()

if sweep.open:
    with sweep:
        show_sweep()
