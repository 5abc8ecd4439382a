"""Taking in a load test that was exported elsewhere."""

import streamlit as st

from core.ui import history_actions

MAX_FILE_MB = 200


def show_import() -> None:
    """A popover with the upload; the run opens as soon as the file is here."""
    with st.popover("Import", icon=":material/upload_file:", key="history_import"):
        st.markdown("The JSON file of a load test, as the export and `python -m core runs export` write it.")
        st.file_uploader(
            "Exported run",
            type="json",
            max_upload_size=MAX_FILE_MB,
            key=history_actions.UPLOAD,
            on_change=history_actions.take_in,
        )
