"""The choice of the machine that does a job: this one, or a node of the Ray cluster."""

import streamlit as st

from core.engines.nodes import node_trouble, read_snapshot, trouble
from core.i18n import _
from core.telemetry.gpus import GpuFacts
from core.ui.shared import resources
from core.ui.shared.components import prose, show_error

_HERE = ""
_WIDTH = 320


def choose_node(key: str) -> str | None:
    """The chosen node's name, None for this machine; draws nothing without `[cluster]` in the lanes file.

    Nodes that can't do anything now are named below with the reason. Not for forms, as what follows depends
    on the machine.
    """
    if resources.lanes().cluster is None:
        return None
    snapshot = read_snapshot(resources.settings())
    problem = trouble(snapshot)
    nodes = sorted(snapshot.nodes, key=lambda node: node.name) if snapshot else []
    usable = [node.name for node in nodes if problem is None and node.problem is None]
    # A node that stops answering stays chosen: the work must not go to another machine unnoticed.
    before: str = st.session_state.get(key, _HERE)
    options = [_HERE, *usable]
    if before not in options:
        options.append(before)
    chosen = st.selectbox(
        _("Node"), options, format_func=lambda name: name or _("This machine"), key=key, width=_WIDTH
    )
    reasons = [problem] if problem else [node.problem for node in nodes]
    lines = [
        f":orange[:material/warning:] {prose(_(reason.message))} {prose(_(reason.hint))}".rstrip()
        for reason in reasons
        if reason is not None
    ]
    if lines:
        st.caption("  \n".join(lines))
    return chosen or None


def is_usable(node: str | None) -> bool:
    """Whether a job can be started there now; if not, the reason is shown."""
    if node is None:
        return True
    problem = node_trouble(read_snapshot(resources.settings()), node)
    if problem is not None:
        show_error(problem)
    return problem is None


def gpus_of(node: str) -> tuple[GpuFacts, ...]:
    """The node's GPUs as it last told; none for a node that there isn't."""
    snapshot = read_snapshot(resources.settings())
    facts = snapshot.node(node) if snapshot else None
    return facts.gpus if facts else ()
