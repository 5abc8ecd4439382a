"""A load test as files: made at the click, by the same functions as the command line's."""

from collections.abc import Callable

import streamlit as st

from core.bench.report import to_json
from core.bench.tables import to_csv, to_parquet
from core.bench_html import report_html
from core.ui.bench_view import View


def show_exports(view: View) -> None:
    record, result, colors = view.record, view.result, view.colors
    formats: dict[str, tuple[Callable[[], bytes], str, str]] = {
        "JSON": (
            lambda: to_json(result, record, raw=True),
            "application/json",
            "Everything, with every stamp: it can be imported again.",
        ),
        "CSV": (lambda: to_csv(record).encode(), "text/csv", "A row a request."),
        "Parquet": (lambda: to_parquet(record), "application/vnd.apache.parquet", "A row a request."),
        "HTML": (
            lambda: report_html(result, record, colors).encode(),
            "text/html",
            "A report with interactive charts that opens without a network.",
        ),
    }
    with st.container(horizontal=True):
        for name, (make, mime, meaning) in formats.items():
            st.download_button(
                name,
                data=make,
                file_name=f"lmdyno-{record.run.id}.{name.lower()}",
                mime=mime,
                icon=":material/download:",
                key=f"{view.key}_export_{name.lower()}",
                help=meaning,
                on_click="ignore",
            )
