"""The machines: obstacles that keep lanes from running here, the audit log, and the nodes of a cluster."""

from collections.abc import Sequence
from math import ceil

import pyarrow as pa
import streamlit as st

from core import units
from core.access.guard import Action
from core.cluster.findings import examine_all
from core.doctor.fitness import Diagnosis, Finding, Status
from core.engines.resolve import ClusterSnapshot, Node, read_snapshot, trouble
from core.errors import StoreError
from core.i18n import N_, _, ngettext
from core.reports.tables import audit_csv
from core.ui.engines.status import REFRESH_S
from core.ui.shared import resources
from core.ui.shared.components import escape, prose, show_error
from core.ui.shared.visitor import show_export

_DIAGNOSIS = "doctor_diagnosis"
_MARKS = {
    Status.OK: ":green[:material/check_circle:]",
    Status.INFO: ":blue[:material/info:]",
    Status.WARN: ":orange[:material/warning:]",
    Status.FAIL: ":red[:material/error:]",
}

_PAGE_SIZE = 50
_PAGE = "audit_page"
_ACTIONS = {
    Action.CHAT: N_("Send a prompt"),
    Action.VOTE: N_("Vote"),
    Action.STOP_ANSWER: N_("Stop an answer"),
    Action.ANNOTATE: N_("Note or tag"),
    Action.DELETE: N_("Delete"),
    Action.RESTORE: N_("Restore"),
    Action.EXPORT: N_("Export"),
    Action.LOG_IN: N_("Log in"),
    Action.LOG_OUT: N_("Log out"),
    Action.START_ENGINE: N_("Start an engine"),
    Action.STOP_ENGINE: N_("Stop an engine"),
    Action.RESTART_ENGINE: N_("Restart an engine"),
    Action.CHANGE_LANE: N_("Change or add a lane"),
    Action.REMOVE_LANE: N_("Remove a lane"),
    Action.TEST_ENDPOINT: N_("Test an endpoint"),
    Action.START_JOB: N_("Start a job"),
    Action.CANCEL_JOB: N_("Cancel a job"),
    Action.IMPORT: N_("Import"),
    Action.PURGE: N_("Delete permanently"),
    Action.READ_AUDIT: N_("Read the audit log"),
}

_MOST_NAMES = 4


def show_doctor() -> None:
    st.markdown(_("Checks driver, packages, memory, and disk from the engines' environment."))
    clicked = st.button(_("Check this machine"), icon=":material/stethoscope:")
    if clicked or _DIAGNOSIS not in st.session_state:
        _examine()
    diagnosis: Diagnosis = st.session_state[_DIAGNOSIS]
    for finding in sorted(diagnosis.findings, key=lambda finding: -list(Status).index(finding.status)):
        _show_finding(finding)


def _examine() -> None:
    """Look at everything; what is known stands there at once, the rest as it comes."""

    def show_all(findings: Sequence[Finding]) -> None:
        for finding in findings:
            _show_finding(finding)

    place = st.empty()
    with place.container(), st.spinner(_("Checking the engines' Python environment"), show_time=True):
        st.session_state[_DIAGNOSIS] = examine_all(
            resources.settings(), resources.lanes(), on_findings=show_all
        )
    place.empty()


def _show_finding(finding: Finding) -> None:
    remedy = f"  \n:gray[{prose(_(finding.remedy))}]" if finding.remedy else ""
    what, detail = escape(_(finding.subject)), prose(_(finding.detail))
    st.markdown(f"{_MARKS[finding.status]} **{what}** {detail}{remedy}")


def show_audit() -> None:
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
                "action": [_(_ACTIONS[entry.action]) for entry in entries],
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
