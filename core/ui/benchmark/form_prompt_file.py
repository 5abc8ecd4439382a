"""The prompt file of the benchmark's form: checked and kept as it is uploaded."""

from pathlib import Path

import streamlit as st

from core.bench.planning.parsing import PROMPT_ENDINGS
from core.bench.planning.plan import Workload
from core.bench.workload.prompts import keep_prompt_file
from core.errors import LMDynoError
from core.i18n import _
from core.ui.shared import resources
from core.ui.shared.components import escape, show_error

_FILE = "bench_file"
_FILE_ERROR = "bench_file_error"
_UPLOAD = "bench_upload"


def show() -> None:
    """The upload, and the file that is kept or what is wrong with it."""
    st.file_uploader(
        _("Prompt file"),
        type=list(PROMPT_ENDINGS),
        key=_UPLOAD,
        on_change=_take,
        help=_(
            "Text: one prompt per line. JSONL: one text or one object with `prompt`, `text`, or "
            "`messages` per line. JSON: a list in ShareGPT format. CSV: a column named `prompt`. For larger "
            "files, use `lmdyno bench --prompts FILE`."
        ),
    )
    if error := st.session_state.get(_FILE_ERROR):
        show_error(error)
    elif file := kept():
        st.caption(f":material/description: {escape(Path(file.path or '').name)}")


def kept() -> Workload | None:
    """A workload that names the file; None without one."""
    file: Workload | None = st.session_state.get(_FILE)
    return file


def start_with(workload: Workload) -> None:
    """Have the form hold the file of this workload, if it has one that is still there."""
    if workload.path and Path(workload.path).is_file():
        st.session_state[_FILE] = workload


def _take() -> None:
    uploaded = st.session_state[_UPLOAD]
    st.session_state.pop(_FILE_ERROR, None)
    if uploaded is None:  # taken out again
        st.session_state.pop(_FILE, None)
        return
    try:
        st.session_state[_FILE] = keep_prompt_file(
            resources.resources().settings, uploaded.name, uploaded.getvalue()
        )
    except LMDynoError as error:
        st.session_state[_FILE_ERROR] = error
        st.session_state.pop(_FILE, None)
