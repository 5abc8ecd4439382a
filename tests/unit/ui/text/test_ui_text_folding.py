import pytest

from core.ui.text.folding import BLOCK_LIMIT, draw

CELLS = "| a " * 60 + "|\n"
TABLE = CELLS + "|---" * 60 + "|\n"


@pytest.mark.parametrize(
    "block",
    [
        TABLE + CELLS * 400,
        "$x$ " * 300,
        "word " * 200_000,
        "x" * 100_000,
        "- a\n" * 2_000,
        "```python\n" + "x = 1\n" * 20_000 + "```",
    ],
    ids=["table", "formulas", "words", "word", "list", "code"],
)
def test_a_block_that_would_hold_a_browser_up_is_folded(block):
    assert draw(block, {}).markdown is None


@pytest.mark.parametrize(
    "block",
    [
        TABLE + CELLS * 5,
        "The mass $m$ and its energy $E = mc^2$. " * 20,
        "word " * 8_000,
        "- an item of a list\n" * 200,
        "```python\n" + "x = 1\n" * 1_000 + "```",
    ],
    ids=["table", "formulas", "words", "list", "code"],
)
def test_what_models_usually_write_is_drawn(block):
    drawn = draw(block, {})
    assert drawn.markdown
    assert 0 < drawn.cost <= BLOCK_LIMIT
