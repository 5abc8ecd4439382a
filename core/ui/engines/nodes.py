"""The nodes of the Ray cluster: a table that follows them, and one message for each that lanes can't use."""

from collections.abc import Sequence

import streamlit as st

from core import units
from core.engines.nodes import ClusterSnapshot, Node, read_snapshot, trouble
from core.i18n import _, ngettext
from core.ui.engines.status import REFRESH_S
from core.ui.shared import resources
from core.ui.shared.components import escape, prose, show_error

_MOST_NAMES = 4


@st.fragment(run_every=REFRESH_S)
def show_nodes() -> None:
    """Nothing without `[cluster]` in the lanes file."""
    if resources.lanes().cluster is None:
        st.empty()
        return
    st.subheader(_("Nodes"), anchor=False)
    snapshot = read_snapshot(resources.settings())
    if problem := trouble(snapshot):
        show_error(problem)
    if snapshot is None or not snapshot.nodes:
        if problem is None:
            st.caption(_("Waiting for the first answer of the cluster."))
        return
    nodes = sorted(snapshot.nodes, key=lambda node: node.name)
    st.table(
        {
            _("Node"): [f"{escape(node.name)}  \n:small[:gray[{escape(node.address)}]]" for node in nodes],
            _("State"): [_badge(node) for node in nodes],
            _("Free GPU memory"): [escape(free_gpus(node)) for node in nodes],
            _("Engines"): [escape(_engines(snapshot, node)) for node in nodes],
            _("Last answer"): [last_answer(node) for node in nodes],
        },
        border="horizontal",
        hide_index=True,
    )
    if problem is None:
        _show_problems(snapshot, nodes)


def free_gpus(node: Node) -> str:
    """Such as `282.0 GiB on 2 GPUs`; of those that tell. "–" without a GPU."""
    free = [gpu.free_bytes for gpu in node.gpus if gpu.free_bytes is not None]
    if not free:
        return units.UNKNOWN
    return ngettext("{size} on {n} GPU", "{size} on {n} GPUs", len(free), size=units.gib(sum(free)))


def last_answer(node: Node) -> str:
    """How long ago the node's agent answered."""
    silent_s = node.silent_s()
    if silent_s is None:
        return units.UNKNOWN
    return _("now") if node.alive else _("{time} ago", time=units.duration(silent_s))


def _badge(node: Node) -> str:
    if node.alive:
        return f":green-badge[:material/check: {_('connected')}]"
    if node.reported_at is None:
        return f":orange-badge[:material/hourglass_top: {_('joining')}]"
    return f":red-badge[:material/cloud_off: {_('lost')}]"


def _engines(snapshot: ClusterSnapshot, node: Node) -> str:
    names = snapshot.lanes_on(node)
    shown = ", ".join(names[:_MOST_NAMES])
    if len(names) > _MOST_NAMES:
        return _("{names} and {n} more", names=shown, n=len(names) - _MOST_NAMES)
    return shown or units.UNKNOWN


def _show_problems(snapshot: ClusterSnapshot, nodes: Sequence[Node]) -> None:
    lines = []
    for node in nodes:
        if node.problem is None:
            continue
        text = f"{prose(_(node.problem.message))} {prose(_(node.problem.hint))}".rstrip()
        lanes = snapshot.lanes_on(node)
        if lanes:
            names = escape(", ".join(lanes))
            text += f" {_('Lanes: {lanes}.', lanes=names)}"
        lines.append(f":orange[:material/warning:] {text}")
    if lines:
        st.markdown("  \n".join(lines))
