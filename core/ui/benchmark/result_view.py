"""Hold how a visitor looks at a run, draw its charts, and offer its exports."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st

from core.bench.results.result import BenchResult
from core.charts.load import Figure
from core.domain.bench import BenchRecord, BenchRun
from core.domain.history import RunKind
from core.i18n import _
from core.reports.run_html import report_html
from core.reports.run_json import to_json
from core.reports.tables import requests_csv, requests_parquet
from core.ui.shared.visitor import show_export


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    key: str
    """Prefix of the widgets' keys."""
    record: BenchRecord
    result: BenchResult
    colors: Mapping[str, str]
    statistic: str
    log: bool
    image: str
    """Format that the charts' camera saves: `png` or `svg`."""

    def show(self, figure: Figure, name: str, alt: str) -> None:
        """Draw a chart; `name` is unique within the run."""
        config = chart_tools(self.image, f"lmdyno-{self.record.run.id[:8]}-{name}")
        st.plotly_chart(figure, key=f"{self.key}_{name}", config=config, alt=alt)


def chart_tools(image: str, filename: str) -> dict[str, Any]:
    """plotly's tools above a chart; the camera saves a `image`, which is `png` or `svg`."""
    return {
        "displaylogo": False,
        "displayModeBar": True,
        "modeBarButtons": [["toImage", "resetScale2d"]],  # zooming goes by dragging
        "toImageButtonOptions": {"format": image, "filename": filename, "scale": 2},
    }


def file_stem(run: BenchRun) -> str:
    """A file name that says what is in it: title, date and the beginning of the id."""
    title = re.sub(r"[^\w.-]+", "-", run.title).strip("-")[:60]
    return f"lmdyno-{title}-{run.created_at:%Y%m%d-%H%M}-{run.id[:6]}"


def show_exports(view: View) -> None:
    record, result, colors = view.record, view.result, view.colors
    formats: dict[str, tuple[Callable[[], bytes], str]] = {
        "JSON": (
            lambda: to_json(result, record, raw=True),
            _("Everything, with every timestamp. Can be imported again."),
        ),
        "CSV": (lambda: requests_csv(record).encode(), _("One row per request.")),
        "Parquet": (lambda: requests_parquet(record), _("One row per request.")),
        "HTML": (
            lambda: report_html(result, record, colors).encode(),
            _("A report with interactive charts that opens without a network."),
        ),
    }
    with st.container(horizontal=True):
        for name, (make, meaning) in formats.items():
            show_export(
                name,
                f"{RunKind.BENCH} {record.run.id} as {name}",
                make,
                file_name=f"{file_stem(record.run)}.{name.lower()}",
                key=f"{view.key}_export_{name.lower()}",
                meaning=meaning,
            )
