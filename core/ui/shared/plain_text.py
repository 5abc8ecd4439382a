"""Text that Streamlit's Markdown shows character by character.

Streamlit adds to CommonMark: colour and badge directives, emoji and icon names, arrows for `<-` and dashes
for `--`. Some of these are looked for after backslashes are resolved, in each stretch of text by itself, so a
backslash alone doesn't stop them. A directive without any effect (`:color[…]`) around one character does: it
cuts the stretch in two.
"""

import re

_MARKS = re.compile(r"[\\`*_\[\]<>$~|&#:]")
_LINE_START = re.compile(r"^( {0,3})(?:([-+=])|(\d{1,9})([.)]))", re.M)
_INDENT = re.compile(r"(?<=\n)[ \t]+")
_CODE_INDENT = re.compile(r"\A(?: {4,}| *\t)[ \t]*")
"""What would make the text a code block."""
_NAMED = re.compile(r":(?=material/|[\w+-]+:)", re.A)
"""The colon before an emoji's or icon's name."""
_BEFORE_LINK = re.compile(r"!\Z")
"""With a link behind it, a mark like this makes an image."""
_ARROW = re.compile(r"(?<!\S)(?:<->|->|<-|--|>=|<=|~=)(?!\S)")
_WWW = re.compile(r"\b(www)\.", re.I)
_SPLIT = "\0"
"""Marks the character after it; never part of a text, since parsers and browsers replace it."""


def plain_text(text: str) -> str:
    """Markdown that shows the text as it is, apart from white space at the start of later lines."""
    text = _CODE_INDENT.sub(" ", _INDENT.sub("", text.replace(_SPLIT, "\ufffd")))
    text = _ARROW.sub(lambda match: f"{match[0][:-2]}{_SPLIT}{match[0][-2:]}", text)
    text = _NAMED.sub(f"{_SPLIT}:", text)
    parts = text.split(_SPLIT)
    return _escaped(parts[0]) + "".join(
        f":color[{_escaped(part[0])}]{_escaped(part[1:])}" for part in parts[1:]
    )


def _escaped(text: str) -> str:
    text = _BEFORE_LINK.sub(r"\!", _MARKS.sub(r"\\\g<0>", text))
    text = _LINE_START.sub(_start_escaped, text)
    # With a backslash inside, no address is seen before all backslashes are resolved: it is then found whole.
    return _WWW.sub(r"\1\\.", text)


def _start_escaped(match: re.Match[str]) -> str:
    indent, mark, number, after = match.groups()
    return f"{indent}\\{mark}" if mark else f"{indent}{number}\\{after}"
