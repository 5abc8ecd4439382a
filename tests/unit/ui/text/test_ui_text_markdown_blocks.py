import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ui.text.markdown import BlockSplitter, split_blocks

LONG = "This is a line long enough to decide."


def fed_in_pieces(text: str, size: int) -> BlockSplitter:
    splitter = BlockSplitter()
    for start in range(0, len(text), size):
        splitter.append(text[start : start + size])
        assert splitter.finished is not None  # as when it is drawn in between
    return splitter


def test_paragraphs_are_cut_at_blank_lines():
    assert split_blocks(f"First.\n\n{LONG}\n\nThe third.") == (["First.", LONG, "The third."], {})


def test_addresses_are_known_to_the_blocks_before_them():
    blocks, references = split_blocks("See [it][a].\n\n[a]: http://h")
    assert blocks == ["See [it][a].\n\n[a]: http://h"]
    assert references["A"]["href"] == "http://h"


@pytest.mark.parametrize(
    "block",
    [
        "```python\na = 1\n\n\nb = 2\n```",
        "~~~\none\n\n```\n\ntwo\n~~~",
        "````\n```\n\ninner\n```\n````",
        "$$\na + b\n\n= c\n$$",
        "\\[\na + b\n\n= c\n\\]",
        "1. one\n\n2. two\n\n   more of two\n\n10. ten",
        "- a\n\n- b\n\n    indented code\n\n- c",
        "1. Code:\n\n   ```\n   x\n\n   y\n   ```\n\n2. Done with it.",
        "| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |",
        "> quoted\n> further",
        "    indented code\n\n    goes on",
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_block_is_kept_whole(block, size):
    splitter = fed_in_pieces(f"{LONG}\n\n{block}\n\n{LONG}\n", size)
    assert splitter.finished == [LONG, block]
    assert splitter.open_text == f"{LONG}\n"


def test_a_list_ends_at_the_next_paragraph_and_a_fence_behind_a_blank_line_begins_a_block():
    splitter = fed_in_pieces(f"- a\n\n- b\n\n{LONG}\n\n```\ncode\n```\n\n{LONG}", 1)
    assert splitter.finished == ["- a\n\n- b", LONG, "```\ncode\n```"]


def test_a_block_is_finished_before_the_next_line_is_complete():
    splitter = fed_in_pieces("First paragraph.\n\nThe second goes on and", 1)
    assert splitter.finished == ["First paragraph."]
    assert splitter.open_text == "The second goes on and"


def test_an_inline_fence_does_not_open_a_block():
    assert fed_in_pieces(f"```not a fence``` here\n\n{LONG}", 4).finished == ["```not a fence``` here"]


def test_blank_lines_at_the_start_finish_nothing():
    assert fed_in_pieces(f"\n\n{LONG}", 1).finished == []


@given(
    st.lists(
        st.sampled_from(
            [
                "word ",
                "\n",
                "\n\n",
                "```\n",
                "$$",
                "- ",
                "1. ",
                "    ",
                "| a |",
                "\\[",
                "~~~",
                "中文",
                "> ",
                "#",
                "\t",
                "=",
                "12",
                ".",
                "[a]: u",
                LONG,
            ]
        ),
        max_size=40,
    ),
    st.integers(1, 7),
)
def test_nothing_is_lost_and_the_pieces_do_not_matter(parts, size):
    text = "".join(parts)
    splitter = fed_in_pieces(text, size)
    whole = BlockSplitter()
    whole.append(text)
    joined = "".join([*splitter.finished, splitter.open_text])
    assert "".join(joined.split()) == "".join(text.split())
    assert splitter.finished == whole.finished
    assert splitter.open_text == whole.open_text
