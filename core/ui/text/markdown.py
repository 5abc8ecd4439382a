"""Parses what models write: CommonMark with tables, strikethrough and formulas, without HTML.

Also cuts a growing text where a later part can't change how an earlier one is shown. Top-level blocks are
kept whole: a fenced code block, a formula, a list with its loose items and indented parts, a table, a quote,
a paragraph. What is cut off is final and need not be sent to a browser again; a link whose address stands in
a later block (`[name]: url`) becomes one when the whole text is drawn anew. No Streamlit here.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token

MATH_BLOCK = "math_block"
MATH_DISPLAY = "math_display"
"""A formula of its own line that stands within a paragraph."""
MATH_INLINE = "math_inline"
FORMULAS = frozenset({MATH_BLOCK, MATH_DISPLAY, MATH_INLINE})

_DOLLAR = re.compile(r"\$(?![\s$])((?:[^$\n\\]|\\.)*?)(?<!\s)\$(?!\d)", re.S)
_INLINE = {"$$": ("$$", MATH_DISPLAY), r"\[": (r"\]", MATH_DISPLAY), r"\(": (r"\)", MATH_INLINE)}
"""Opening and closing marks of formulas within a paragraph, and their kind."""
_CLOSING = {"$$": "$$", r"\[": r"\]"}
_UNDECIDED = re.compile(r"[ \t]*(?:\d{0,9}[.)]?[ \t]*|[\W_]*|(?:\[|\\\[|\$\$|```).*)")
"""A line that may still become a list item, a fence, a formula or a link's address as it goes on."""


def _math_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
    """A formula that begins a line with `$$` or `\\[` and ends another line, over blank lines too."""
    if state.is_code_block(start):
        return False
    first = state.src[state.bMarks[start] + state.tShift[start] : state.eMarks[start]]
    closing = _CLOSING.get(first[:2])
    if closing is None or closing in first[2:]:
        return False
    if silent:
        return True
    line, closed = start + 1, False
    while line < end and not closed:
        closed = state.src[state.bMarks[line] : state.eMarks[line]].rstrip().endswith(closing)
        line += 1
    content = state.getLines(start, line, state.sCount[start], False)[2:]
    token = state.push(MATH_BLOCK, "", 0)
    token.content = content.rstrip().removesuffix(closing).strip()
    token.meta = {"closed": closed, "opening": first[:2]}
    token.map = [start, line]
    state.line = line
    return True


def _math_inline(state: StateInline, silent: bool) -> bool:
    text, pos = state.src, state.pos
    opening = text[pos : pos + 2]
    if opening in _INLINE:
        closing, kind = _INLINE[opening]
        end = text.find(closing, pos + 3)
        content, after = text[pos + 2 : end], end + 2
        if end < 0:
            return False
    elif match := _DOLLAR.match(text, pos):
        kind, content, after = MATH_INLINE, match[1], match.end()
    else:
        return False
    if not content.strip():
        return False
    if not silent:
        state.push(kind, "", 0).content = content.strip()
    state.pos = after
    return True


def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    parser.block.ruler.before(
        "fence", MATH_BLOCK, _math_block, {"alt": ["paragraph", "reference", "blockquote", "list"]}
    )
    parser.inline.ruler.before("escape", MATH_INLINE, _math_inline)
    return parser


_PARSER = _parser()
_BLOCKS = _parser().disable(["inline", "text_join"])

References = Mapping[str, Any]
"""Addresses that links name, by their normalised names, as markdown-it keeps them."""


def parse(text: str, references: References | None = None) -> list[Token]:
    return _PARSER.parse(text, {"references": dict(references or {})})


class BlockSplitter:
    """Takes text as it comes; `finished` grows by whole blocks, `open_text` is what may still change."""

    def __init__(self) -> None:
        self._finished: list[str] = []
        self._open = ""
        self._new: list[str] = []
        self._env: dict[str, Any] = {"references": {}}

    def append(self, text: str) -> None:
        self._new.append(text)

    @property
    def finished(self) -> Sequence[str]:
        self._cut()
        return self._finished

    @property
    def references(self) -> References:
        self._cut()
        references: References = self._env["references"]
        return references

    @property
    def open_text(self) -> str:
        self._cut()
        return self._open

    def _cut(self) -> None:
        """Move all blocks but the last, which may go on, to the finished ones."""
        if not self._new:
            return
        self._open += "".join(self._new)
        self._new.clear()
        tokens = _BLOCKS.parse(self._decided(), self._env)
        starts = [token.map[0] for token in tokens if token.map and token.level == 0]
        if len(starts) < 2:
            return
        lines = self._open.split("\n")
        for start, end in pairwise([0, *starts[1:]]):
            self._finished.append("\n".join(lines[start:end]).strip("\n").rstrip())
        self._open = "\n".join(lines[starts[-1] :])

    def _decided(self) -> str:
        """The open text without a last line of which it can't be said yet what it is."""
        head, newline, tail = self._open.rpartition("\n")
        return head + newline if _UNDECIDED.fullmatch(tail) else self._open


def split_blocks(text: str) -> tuple[list[str], References]:
    """All blocks of a finished text, cut in the same places as while it grew, and the addresses it names."""
    splitter = BlockSplitter()
    splitter.append(text + "\n")
    rest = splitter.open_text.rstrip()
    return [*splitter.finished, *([rest] if rest else [])], splitter.references
