import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from core.ui.text.markdown import parse
from core.ui.text.markdown_writer import LONG_WORD_CHARS, streamlit_markdown


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
