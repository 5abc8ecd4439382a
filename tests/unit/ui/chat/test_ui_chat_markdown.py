import pytest

from core.ui.chat.markdown import streamlit_markdown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("It costs $5 and $10.", r"It costs \$5 and \$10."),
        ("Only $5.", r"Only \$5."),
        (r"Already \$5.", r"Already \$5."),
        ("The area is $\\pi r^2$.", "The area is $\\pi r^2$."),
        ("$x$ for $3", r"$x$ for \$3"),
        ("$$\na + b\n$$", "$$\na + b\n$$"),
        (r"So \(a+b\) it is", "So $a+b$ it is"),
        (r"So \[ a+b \] it is", "So \n$$\na+b\n$$\n it is"),
        ("![cat](http://host/cat.png)", r"\![cat](http://host/cat.png)"),
        ("`$HOME` and `\\(x\\)`", "`$HOME` and `\\(x\\)`"),
        ("```sh\necho $A $B ![x](y)\n```", "```sh\necho $A $B ![x](y)\n```"),
        ("```sh\necho $A $B", "```sh\necho $A $B"),
        ("Use ``a ` b`` for $1 now", r"Use ``a ` b`` for \$1 now"),
        ("价格是 $5，公式 $a^2$。", r"价格是 \$5，公式 $a^2$。"),
    ],
)
def test_markdown_is_shown_as_it_was_meant(text, shown):
    assert streamlit_markdown(text) == shown
