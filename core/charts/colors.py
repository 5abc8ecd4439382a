"""Assign each lane its one colour, the same in every chart and list."""

import zlib
from collections.abc import Sequence

LANE_COLORS = (
    "#224dff",
    "#d99a12",
    "#9800ac",
    "#31b3c3",
    "#ff5482",
    "#bb0206",
    "#ad7bfe",
    "#5b585f",
)
"""Chosen by search: visible on white and on near-black, and the furthest apart under normal, protan, deutan
and tritan vision (Machado et al. 2009 matrices, OKLab distance). `chartCategoricalColors` in
`.streamlit/config.toml` is the same list."""


def lane_color(lane: str, known: Sequence[str]) -> str:
    """A known lane's colour goes by its place, an unknown one's (from an old turn) by its name."""
    place = known.index(lane) if lane in known else zlib.crc32(lane.encode())
    return LANE_COLORS[place % len(LANE_COLORS)]
