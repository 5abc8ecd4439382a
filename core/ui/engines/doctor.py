"""What stands between this machine and its lanes, line by line, each with its remedy."""

import streamlit as st

from core.doctor import examine
from core.doctor.findings import Diagnosis, Finding, Status
from core.ui.shared import resources
from core.ui.shared.components import escape, sentence

_DIAGNOSIS = "doctor_diagnosis"
_MARKS = {
    Status.OK: ":green[:material/check_circle:]",
    Status.INFO: ":blue[:material/info:]",
    Status.WARN: ":orange[:material/warning:]",
    Status.FAIL: ":red[:material/error:]",
}


def show_doctor() -> None:
    st.markdown("Driver, packages, memory and disk, looked at as the engines would find them.")
    if st.button("Examine this machine", icon=":material/stethoscope:") or _DIAGNOSIS not in st.session_state:
        with st.spinner("Asking the engines' Python", show_time=True):
            st.session_state[_DIAGNOSIS] = examine(resources.resources().settings, resources.lanes())
    found: Diagnosis = st.session_state[_DIAGNOSIS]
    for finding in sorted(found.findings, key=lambda each: -list(Status).index(each.status)):
        _show(finding)


def _show(finding: Finding) -> None:
    remedy = f"  \n:gray[{escape(finding.remedy)}]" if finding.remedy else ""
    st.markdown(f"{_MARKS[finding.status]} **{sentence(finding.what)}** {escape(finding.detail)}{remedy}")
