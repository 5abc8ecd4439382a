import itertools
import math

import pytest

from core.charts.colors import LANE_COLORS, lane_color
from core.charts.requests import LaneFigures, decode_speed_chart, first_token_chart

VISION = {
    "normal": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    # Machado, Oliveira & Fernandes (2009), severity 1.0
    "protan": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deutan": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritan": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}


def linear(color: str) -> tuple[float, ...]:
    channels = (int(color[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return tuple(c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)


def times(matrix, vector) -> tuple[float, ...]:
    return tuple(sum(m * v for m, v in zip(row, vector, strict=True)) for row in matrix)


def oklab(rgb: tuple[float, ...]) -> tuple[float, ...]:
    """Björn Ottosson's OKLab of linear sRGB."""
    lms = times(
        (
            (0.4122214708, 0.5363325363, 0.0514459929),
            (0.2119034982, 0.6806995451, 0.1073969566),
            (0.0883024619, 0.2817188376, 0.6299787005),
        ),
        rgb,
    )
    return times(
        (
            (0.2104542553, 0.7936177850, -0.0040720468),
            (1.9779984951, -2.4285922050, 0.4505937099),
            (0.0259040371, 0.7827717662, -0.8086757660),
        ),
        tuple(math.cbrt(max(value, 0)) for value in lms),
    )


@pytest.mark.parametrize("vision", VISION)
def test_lane_colors_stay_apart_for_every_kind_of_vision(vision):
    def seen(color):
        return oklab(tuple(min(1, max(0, c)) for c in times(VISION[vision], linear(color))))

    nearest = min(math.dist(seen(a), seen(b)) for a, b in itertools.combinations(LANE_COLORS, 2))
    assert nearest > (0.17 if vision == "normal" else 0.09)


def test_a_lane_keeps_its_color_whatever_else_is_shown():
    known = [f"lane-{number}" for number in range(10)]
    assert [lane_color(name, known) for name in known[:8]] == list(LANE_COLORS)
    assert lane_color("lane-9", known) == LANE_COLORS[1]
    assert lane_color("old", known) == lane_color("old", ["other"])
    assert lane_color("old", known) in LANE_COLORS


LANES = [
    LaneFigures(lane="hf", ttft_s=0.25, decode_tok_per_s=40.0, speed_ratio=None),
    LaneFigures(lane="awq", ttft_s=0.05, decode_tok_per_s=None, speed_ratio=None),
    LaneFigures(lane="turbomind", ttft_s=0.1, decode_tok_per_s=80.0, speed_ratio=2.0),
]
COLORS = {"hf": "#111111", "awq": "#222222", "turbomind": "#333333"}


def test_first_token_times_stand_by_lane_in_seconds_from_zero():
    figure = first_token_chart(LANES, COLORS)
    (bars,) = figure.data
    assert list(bars.x) == [0.25, 0.05, 0.1]
    assert list(bars.y) == ["hf", "awq", "turbomind"]
    assert list(bars.text) == ["250 ms", "50.0 ms", "100 ms"]
    assert list(bars.marker.color) == list(COLORS.values())
    assert figure.layout.xaxis.rangemode == "tozero"
    assert figure.layout.xaxis.ticksuffix == "s"


def test_decode_speeds_carry_their_ratio_and_unknown_is_a_dash():
    figure = decode_speed_chart(LANES, COLORS)
    (bars,) = figure.data
    assert list(bars.x) == [40.0, None, 80.0]
    assert list(bars.text) == ["40.0 tok/s", "–", "80.0 tok/s (2.00×)"]
    assert list(bars.marker.color) == list(COLORS.values())
    assert "tok/s" in figure.layout.title.text
    assert figure.layout.xaxis.rangemode == "tozero"
