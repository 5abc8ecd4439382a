"""The doctor's findings: what keeps lanes from running on this machine, each with its remedy."""

from collections.abc import Sequence

import streamlit as st

from core.doctor import examine
from core.doctor.findings import Diagnosis, Finding, Status
from core.i18n import _
from core.ui.shared import resources
from core.ui.shared.components import escape, prose

_DIAGNOSIS = "doctor_diagnosis"
_MARKS = {
    Status.OK: ":green[:material/check_circle:]",
    Status.INFO: ":blue[:material/info:]",
    Status.WARN: ":orange[:material/warning:]",
    Status.FAIL: ":red[:material/error:]",
}


def show_doctor() -> None:
    st.markdown(_("Checks driver, packages, memory, and disk from the engines' environment."))
    clicked = st.button(_("Check this machine"), icon=":material/stethoscope:")
    if clicked or _DIAGNOSIS not in st.session_state:
        _examine()
    found: Diagnosis = st.session_state[_DIAGNOSIS]
    for finding in sorted(found.findings, key=lambda each: -list(Status).index(each.status)):
        _show(finding)


def _examine() -> None:
    """Look at everything; what is known stands there at once, the rest as it comes."""

    def show_all(findings: Sequence[Finding]) -> None:
        for finding in findings:
            _show(finding)

    place = st.empty()
    with place.container(), st.spinner(_("Checking the engines' Python environment"), show_time=True):
        st.session_state[_DIAGNOSIS] = examine(
            resources.resources().settings, resources.lanes(), on_findings=show_all
        )
    place.empty()


def _show(finding: Finding) -> None:
    remedy = f"  \n:gray[{prose(_(finding.remedy))}]" if finding.remedy else ""
    what, detail = escape(_(finding.what)), prose(_(finding.detail))
    st.markdown(f"{_MARKS[finding.status]} **{what}** {detail}{remedy}")
