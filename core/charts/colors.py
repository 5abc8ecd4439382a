"""Assign each lane its one colour, the same in every chart and list."""

import zlib
from collections.abc import Sequence

LANE_COLORS = (
    "#573dff",
    "#cd7c29",
    "#a623bf",
    "#227300",
    "#ff33cd",
    "#df0151",
    "#5190f1",
    "#7e6685",
)
"""Chosen by search: a contrast of at least 3:1 on both themes' pages and sidebars, and the furthest apart
under normal, protan, deutan and tritan vision (Machado et al. 2009 matrices, OKLab distance).
`chartCategoricalColors` in `.streamlit/config.toml` is the same list."""


def lane_color(lane: str, lane_order: Sequence[str]) -> str:
    """A known lane's colour goes by its place, an unknown one's (from an old turn) by its name."""
    place = lane_order.index(lane) if lane in lane_order else zlib.crc32(lane.encode())
    return LANE_COLORS[place % len(LANE_COLORS)]
