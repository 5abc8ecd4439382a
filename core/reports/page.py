"""Render a report as one HTML file that opens anywhere and needs no network.

plotly's own script is part of a page with charts, once: 4 to 5 MB.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import plotly.graph_objects as go
import plotly.io as pio
from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from core.i18n import current_language


def render(template: str, *, title: str, charts: Sequence[go.Figure] = (), **values: object) -> str:
    """The page of a template in `core/reports/templates`, in the current language; every value is escaped."""
    return (
        _environment()
        .get_template(f"{template}.html.j2")
        .render(
            title=title,
            language=current_language().tag,
            plotly=get_plotlyjs() if charts else "",
            charts=[_chart_html(chart) for chart in charts],
            **values,
        )
    )


def _chart_html(figure: go.Figure) -> str:
    config: dict[str, Any] = {
        "displaylogo": False,
        "responsive": True,
        "toImageButtonOptions": {"format": "svg"},
    }
    html: str = pio.to_html(figure, include_plotlyjs=False, full_html=False, config=config)
    return html


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("core.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
