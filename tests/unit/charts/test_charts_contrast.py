"""Contrast of texts (4.5:1) and marks (3:1) in both themes, by WCAG 2.2."""

import re
import tomllib
from itertools import product
from pathlib import Path

import pytest

from core import charts
from core.charts.colors import LANE_COLORS
from core.settings import PROJECT_ROOT

THEMES = tomllib.loads((PROJECT_ROOT / ".streamlit" / "config.toml").read_text("utf-8"))["theme"]
MODES = ("light", "dark")
BACKGROUNDS = ("backgroundColor", "secondaryBackgroundColor")
TEXT, MARK = 4.5, 3.0
CAPTION_OPACITY = 0.6
"""Streamlit writes captions in the text's colour at this opacity."""
BADGE_OPACITY = 0.1
"""Badges stand on their own colour at this opacity."""
WHITE = "#ffffff"
_HEX = re.compile(r'"(#[0-9a-fA-F]{6})"')
CHART_COLORS = sorted(
    {
        color
        for path in Path(charts.__file__).parent.glob("*.py")
        for color in _HEX.findall(path.read_text("utf-8"))
    }
)


def linear(part: float) -> float:
    return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4


def channels(color: str) -> list[float]:
    return [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]


def luminance(color: str) -> float:
    red, green, blue = map(linear, channels(color))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def over(color: str, background: str, opacity: float) -> str:
    mixed = [
        opacity * front + (1 - opacity) * back
        for front, back in zip(channels(color), channels(background), strict=True)
    ]
    return "#" + "".join(f"{round(part * 255):02x}" for part in mixed)


def test_contrast_is_that_of_the_standard():
    assert contrast("#000000", WHITE) == pytest.approx(21)
    assert contrast("#767676", WHITE) == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize(("mode", "background"), product(MODES, BACKGROUNDS))
def test_texts_links_and_captions_are_readable(mode, background):
    theme = THEMES[mode]
    behind = theme[background]
    assert contrast(theme["textColor"], behind) >= TEXT
    assert contrast(theme["codeTextColor"], theme["codeBackgroundColor"]) >= TEXT
    assert contrast(theme["linkColor"], behind) >= TEXT
    assert contrast(over(theme["textColor"], behind, CAPTION_OPACITY), behind) >= TEXT


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("name", ["red", "orange", "green", "gray"])
def test_coloured_words_are_readable_on_white(name, background):
    theme = THEMES["light"]
    color = theme[f"{name}TextColor"]
    tinted = over(color, theme[background], BADGE_OPACITY)
    assert contrast(color, theme[background]) >= TEXT
    assert contrast(color, tinted) >= TEXT


def primary_on(mode: str, background: str) -> str:
    """The primary colour as it is seen there: its alpha is in its last two digits."""
    color = THEMES[mode]["primaryColor"]
    return over(color, THEMES[mode][background], int(color[7:] or "ff", 16) / 255)


@pytest.mark.parametrize(("mode", "background"), product(MODES, BACKGROUNDS))
def test_white_labels_on_the_primary_colour_are_readable(mode, background):
    assert contrast(WHITE, primary_on(mode, background)) >= TEXT


@pytest.mark.parametrize("mode", MODES)
def test_values_and_choices_in_the_primary_colour_are_readable(mode):
    assert contrast(primary_on(mode, "backgroundColor"), THEMES[mode]["backgroundColor"]) >= TEXT


@pytest.mark.parametrize(("mode", "background"), product(MODES, BACKGROUNDS))
def test_each_lane_s_colour_stands_out(mode, background):
    behind = THEMES[mode][background]
    assert {color: contrast(color, behind) for color in LANE_COLORS if contrast(color, behind) < MARK} == {}


@pytest.mark.parametrize("mode", MODES)
def test_every_colour_of_a_chart_stands_out(mode):
    behind = THEMES[mode]["backgroundColor"]
    assert len(CHART_COLORS) > len(LANE_COLORS)
    assert {color: contrast(color, behind) for color in CHART_COLORS if contrast(color, behind) < MARK} == {}


@pytest.mark.parametrize("mode", MODES)
def test_the_theme_s_categorical_colours_are_those_of_the_lanes(mode):
    assert tuple(THEMES[mode]["chartCategoricalColors"]) == LANE_COLORS
