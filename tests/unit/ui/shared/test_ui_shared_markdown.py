import gc
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from core.ui.shared.markdown import LONG_WORD_CHARS, BlockSplitter, parse, split_blocks, streamlit_markdown

LONG = "This is a line long enough to decide."


def fed_in_pieces(text: str, size: int) -> tuple[list[str], str]:
    """The finished blocks and the open text, taken after each piece as when it is drawn in between."""
    splitter = BlockSplitter()
    finished: list[str] = []
    for start in range(0, len(text), size):
        splitter.append(text[start : start + size])
        finished += splitter.take_finished()
    return finished, splitter.open_text


def test_a_finished_block_is_given_out_once_and_then_forgotten():
    splitter = BlockSplitter()
    splitter.append(f"First.\n\n{LONG}\n\n{LONG}")
    blocks = splitter.take_finished()
    assert blocks == ["First.", LONG]
    assert splitter.take_finished() == []
    block = blocks.pop(0)
    assert gc.get_referrers(block) == []


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
    assert fed_in_pieces(f"{LONG}\n\n{block}\n\n{LONG}\n", size) == ([LONG, block], f"{LONG}\n")


def test_a_list_ends_at_the_next_paragraph_and_a_fence_behind_a_blank_line_begins_a_block():
    finished, _ = fed_in_pieces(f"- a\n\n- b\n\n{LONG}\n\n```\ncode\n```\n\n{LONG}", 1)
    assert finished == ["- a\n\n- b", LONG, "```\ncode\n```"]


def test_a_block_is_finished_before_the_next_line_is_complete():
    text = "First paragraph.\n\nThe second goes on and"
    assert fed_in_pieces(text, 1) == (["First paragraph."], "The second goes on and")


def test_an_inline_fence_does_not_open_a_block():
    assert fed_in_pieces(f"```not a fence``` here\n\n{LONG}", 4)[0] == ["```not a fence``` here"]


def test_blank_lines_at_the_start_finish_nothing():
    assert fed_in_pieces(f"\n\n{LONG}", 1)[0] == []


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
    finished, open_text = fed_in_pieces(text, size)
    joined = "".join([*finished, open_text])
    assert "".join(joined.split()) == "".join(text.split())
    assert (finished, open_text) == fed_in_pieces(text, max(1, len(text)))


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("It costs $5 and $10.", r"It costs \$5 and \$10."),
        (r"Already \$5.", r"Already \$5."),
        ("价格是 $5，公式 $a^2$。", r"价格是 \$5，公式 $a^2$。"),
        ("The area is $\\pi r^2$.", "The area is $\\pi r^2$."),
        ("$x$ for $3", r"$x$ for \$3"),
        ("$$\na + b\n$$", "$$\na + b\n$$"),
        ("$$ a + b $$", "$$\na + b\n$$"),
        (r"So \(a+b\) it is", "So $a+b$ it is"),
        (r"So \[ a+b \] it is", "So \n$$\na+b\n$$\n it is"),
        ("- A\n\n  \\[\n  x\n\n  y\n  \\]", "- A\n\n  $$\n  x\n\n  y\n  $$"),
        (r"\(a\)\(b\)5", "$a$ $b$&#53;"),
        (r"| a |" + "\n|---|\n" + r"| \(\|x\|\) |", "| a |\n| --- |\n| $\\vert x\\vert $ |"),
        ("`$HOME` and `\\(x\\)`", "`$HOME` and `\\(x\\)`"),
        ("Use ``a ` b`` for $1 now", r"Use ``a ` b`` for \$1 now"),
        ("```sh\necho $A ![x](y)\n```", "```sh\necho $A ![x](y)\n```"),
        ("```sh\necho $A", "```sh\necho $A\n```"),
        ("````\n```\n````", "````\n```\n````"),
        ("    code\n\n    more", "```\ncode\n\nmore\n```"),
        ("Title\n===", "# Title"),
        ("- a\n  1) b\n     > c\n* d", "- a\n  1) b\n     > c\n\n* d"),
        ("1. a\n\n2. b\n\n   c", "1. a\n\n2. b\n\n   c"),
        ("- [x] done\n- [ ] not *yet*", "- [x] done\n- [ ] not *yet*"),
        ("| a | b |\n|:-:|--:|\n| `x` | **y** |", "| a | b |\n| :-: | --: |\n| `x` | **y** |"),
        ("a  \nb ~~c~~ _d_", "a\\\nb ~~c~~ _d_"),
        ("See [it](http://h/a_b?c=1&d) or <http://h>.", r"See [it](<http://h/a_b?c=1\&d>) or [http\://h](<http://h>)."),
        ("[it][1]\n\n[1]: http://h", "[it](<http://h>)"),
        ("$$\nnot closed", "\\$\\$\nnot closed"),
    ],
)  # fmt: skip
def test_markup_is_written_as_it_was_meant(text, written):
    assert streamlit_markdown(text) == written


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("![cat](http://h/c.png)", r"!\[cat\](http\://h/c.png)"),
        (r"\![cat](http://h)", r"\![cat](<http://h>)"),
        ("&#33;[cat](http://h)", r"\![cat](<http://h>)"),
        ("[x](javascript:alert(1))", r"\[x\](javascript\:alert(1))"),
        ("<img src=x onerror=y>", r"\<img src=x onerror=y\>"),
        ("&lt;b&gt;", r"\<b\>"),
        ("```mermaid\nA@{ img: 'http://h' }\n```", "```text\nA@{ img: 'http://h' }\n```"),
        (":red[x] :smile: :material/home:", r"\:red\[x\] :color[\:]smile\: :color[\:]material/home\:"),
        (":::tip\nx\n:::", "\\:\\:\\:tip\nx\n\\:\\:\\:"),
        ("x <- y -- z <-> u", r"x :color[\<]\- y :color[\-]\- z \<:color[\-]\> u"),
        ("`:material/home:`", "`:\u2060material/home:`"),
        ("a | b\n--|\\--", "a \\| b\n\\--\\|--"),
        ("[^1]: a note", r"\[^1\]\: a note"),
    ],
)
def test_nothing_else_is_found_in_text(text, written):
    assert streamlit_markdown(text) == written


def test_a_reference_of_another_block_is_followed():
    references = {"1": {"title": "", "href": "http://h"}}
    assert streamlit_markdown("[it][1]", references) == "[it](<http://h>)"


@pytest.mark.parametrize("text", ["x" * 20_000, "`" + "x" * 20_000 + "`", "```\n" + "x" * 20_000 + "\n```"])
def test_long_words_can_be_broken(text):
    longest = max(len(word) for word in re.split("[\u200b\\s]", streamlit_markdown(text)))
    assert longest < LONG_WORD_CHARS


def test_words_of_east_asian_text_are_left_alone():
    assert streamlit_markdown("中文" * 1000) == "中文" * 1000


@pytest.mark.parametrize("formula", ["x+" * 1500 + "x", r"\frac1{" * 600 + "x" + "}" * 600])
def test_a_formula_that_would_take_long_to_draw_is_shown_as_code(formula):
    assert streamlit_markdown(f"$$\n{formula}\n$$").startswith("```latex\n")
    assert streamlit_markdown(f"So \\({formula}\\) it is").startswith("So `")


MARKS = st.text(st.sampled_from("\\`*_[]()<>$~|&#33;:!-+=1. \n\tx{}^@\"'/中é\0"), max_size=60)


@given(MARKS)
def test_what_was_written_holds_no_image_and_no_html(text):
    written = streamlit_markdown(text)
    browser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    tokens = browser.parse(written)
    kinds = {token.type for token in tokens} | {c.type for token in tokens for c in token.children or []}
    assert not kinds & {"image", "html_inline", "html_block"}


@given(MARKS)
def test_what_was_written_reads_the_same_when_it_is_written_again(text):
    once = streamlit_markdown(text)
    assert _words(once) == _words(text)


def _words(text: str) -> str:
    """The letters that a reader sees."""
    out = []
    for token in parse(text):
        for child in token.children or [token]:
            out.append(child.content)
    return re.sub(r"[^x中é1]", "", "".join(out).replace(":color", ""))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "mark", ["[", "*", "**_", "`", "<", "$", "\\(", "![", "> ", "- ", "~~", "|", "a_", "&"]
)
def test_hostile_repetition_comes_to_an_end(mark):
    assert streamlit_markdown(mark * 10_000)
