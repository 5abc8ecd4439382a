"""A page that shows texts as an answer is shown; the file that holds them is named by the environment."""

import json
import os
from pathlib import Path

import streamlit as st

from core.ui.shared.components import escape
from core.ui.shared.live_text import show_text

texts = json.loads(Path(os.environ["SHOWN_TEXTS"]).read_text("utf-8"))[st.query_params["batch"]]
if st.query_params.get("as") == "is":
    for text in texts:
        st.markdown(text)
else:
    for number, text in enumerate(texts):
        with st.container(key=f"text_{number}"):
            show_text(text, key=str(number))
        st.caption(escape(text))
st.write("The end.")
