"""Cuts a growing Markdown text where a later part can't change how an earlier one is shown.

Top-level blocks are kept whole: a fenced code block, a `$$` formula, a list with its loose items and
indented parts, a table, a quote, a paragraph. What is cut off is final and need not be sent to a browser
again. The one loss: a link reference (`[name]: url`) does not reach back over a cut. No Streamlit here.
"""

import re

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_LIST_ITEM = re.compile(r" {0,3}([-*+]|\d{1,9}[.)])(\s|$)")
_DECIDABLE_CHARS = 8
"""So much of a line says whether it goes on with the block before the blank line (`999) x`, four spaces)."""


_CODE = re.compile(
    r"(^ {0,3}(`{3,}|~{3,}).*?(?:^ {0,3}\2[`~]*[ \t]*$|\Z)|(`+)[^`].*?(?<!`)\3(?!`))", re.S | re.M
)
_DISPLAY = re.compile(r"\\\[(.+?)\\\]", re.S)
_INLINE = re.compile(r"\\\((.+?)\\\)", re.S)
_MATH = re.compile(r"\$\$.+?\$\$|(?<![\\$])\$(?![\s$])(?:[^$\n\\]|\\.)*?(?<!\s)\$(?!\d)", re.S)


class BlockSplitter:
    """Takes text as it comes; `finished` grows by whole blocks, `open_text` is what may still change."""

    def __init__(self) -> None:
        self.finished: list[str] = []
        self._open = ""
        self._line_start = 0
        """Where the first line that was not looked at begins in the open text."""
        self._closing: str | None = None
        """The mark that ends the code or formula block that we are in."""
        self._in_list = False
        self._after_blank = False

    @property
    def open_text(self) -> str:
        return self._open

    def append(self, text: str) -> None:
        self._open += text
        while True:
            end = self._open.find("\n", self._line_start)
            if end < 0:
                break
            self._take_line(self._open[self._line_start : end])
            self._line_start = self._open.index("\n", self._line_start) + 1
        tail = self._open[self._line_start :]
        if self._after_blank and len(tail) >= _DECIDABLE_CHARS and self._begins_block(tail):
            self._cut()

    def _take_line(self, line: str) -> None:
        if self._closing:
            if _closes(line, self._closing):
                self._closing = None
            return
        if not line.strip():
            self._after_blank = bool(self._open[: self._line_start].strip())
            return
        if self._after_blank and self._begins_block(line):
            self._cut()
        self._after_blank = False
        if self._line_start == 0:
            self._in_list = bool(_LIST_ITEM.match(line))
        self._closing = _opens(line)

    def _begins_block(self, line: str) -> bool:
        """Whether this line, after a blank one, is no part of the block before it."""
        if line[0] in " \t":
            return False  # an indented part of a list item, or code that goes on after a blank line
        return not (self._in_list and _LIST_ITEM.match(line))

    def _cut(self) -> None:
        self.finished.append(self._open[: self._line_start].rstrip())
        self._open = self._open[self._line_start :]
        self._line_start = 0
        self._after_blank = False


def split_blocks(text: str) -> list[str]:
    """All blocks of a finished text, cut in the same places as while it grew."""
    splitter = BlockSplitter()
    splitter.append(text)
    rest = splitter.open_text.rstrip()
    return [*splitter.finished, rest] if rest else splitter.finished


def _opens(line: str) -> str | None:
    """The mark that will close what this line opens."""
    # List items may hold fences and formulas too, behind their marker or indentation.
    inner = _LIST_ITEM.sub("", line, count=1).lstrip()
    if fence := _FENCE.match(inner):
        mark = fence.group(1)
        closed_inline = mark[0] == "`" and "`" in inner[len(mark) :]
        return None if closed_inline else mark
    for opening, closing in (("$$", "$$"), (r"\[", r"\]")):
        if inner.startswith(opening) and closing not in inner[2:]:
            return closing
    return None


def _closes(line: str, mark: str) -> bool:
    stripped = line.strip()
    if mark in ("$$", r"\]"):
        return stripped.endswith(mark)
    return stripped.startswith(mark) and not stripped.strip(mark[0])


def streamlit_markdown(block: str) -> str:
    """The block with its mathematics, money and images made safe; code is left as it is."""
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
