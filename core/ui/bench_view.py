"""A run as a visitor has chosen to look at it, and how its charts are drawn."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st

from core.bench.results import BenchResult
from core.charts_bench import Figure
from core.domain.bench import BenchRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    key: str
    """Prefix of the widgets' keys."""
    record: BenchRecord
    result: BenchResult
    colors: Mapping[str, str]
    statistic: str
    log: bool
    picture: str
    """What the charts' camera saves: `png` or `svg`."""

    def show(self, figure: Figure, name: str, alt: str) -> None:
        """Draw a chart; `name` is unique within the run."""
        config = chart_tools(self.picture, f"lmdyno-{self.record.run.id[:8]}-{name}")
        st.plotly_chart(figure, key=f"{self.key}_{name}", config=config, alt=alt)


def chart_tools(picture: str, filename: str) -> dict[str, Any]:
    """plotly's tools above a chart; the camera saves a `picture`, which is `png` or `svg`."""
    return {
        "displaylogo": False,
        "displayModeBar": True,
        "modeBarButtons": [["toImage", "resetScale2d"]],  # zooming goes by dragging
        "toImageButtonOptions": {"format": picture, "filename": filename, "scale": 2},
    }
