"""Model output as Streamlit's Markdown should read it.

Outside code: `\\(…\\)` and `\\[…\\]` become `$…$` and `$$…$$`; dollars that are money stay money (Pandoc's
rule: an opening dollar has no space after it, a closing one no space before it and no digit behind it); a
picture becomes a link, so that no answer makes a browser fetch an address. Works on whole blocks.
"""

import re

_CODE = re.compile(
    r"(^ {0,3}(`{3,}|~{3,}).*?(?:^ {0,3}\2[`~]*[ \t]*$|\Z)|(`+)[^`].*?(?<!`)\3(?!`))", re.S | re.M
)
_DISPLAY = re.compile(r"\\\[(.+?)\\\]", re.S)
_INLINE = re.compile(r"\\\((.+?)\\\)", re.S)
_MATH = re.compile(r"\$\$.+?\$\$|(?<![\\$])\$(?![\s$])(?:[^$\n\\]|\\.)*?(?<!\s)\$(?!\d)", re.S)


def streamlit_markdown(block: str) -> str:
    """The block with its mathematics, money and pictures made safe; code is left as it is."""
    parts: list[str] = []
    end = 0
    for code in _CODE.finditer(block):
        parts += [_prose(block[end : code.start()]), code.group()]
        end = code.end()
    parts.append(_prose(block[end:]))
    return "".join(parts)


def _prose(text: str) -> str:
    text = _DISPLAY.sub(lambda found: f"\n$$\n{found.group(1).strip()}\n$$\n", text)
    text = _INLINE.sub(lambda found: f"${found.group(1).strip()}$", text)
    text = text.replace("![", r"\![")
    parts: list[str] = []
    end = 0
    for math in _MATH.finditer(text):
        parts += [_money(text[end : math.start()]), math.group()]
        end = math.end()
    parts.append(_money(text[end:]))
    return "".join(parts)


def _money(text: str) -> str:
    return re.sub(r"(?<!\\)\$", r"\\$", text)
