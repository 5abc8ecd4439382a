"""Parses what models write, and writes what they meant as Markdown in which a browser finds nothing else.

CommonMark with tables, strikethrough and formulas, without HTML, is parsed once, here, and written anew from
the parser's tokens: markup in one canonical spelling, and all text escaped. So nothing depends on whether the
browser's parser takes some spelling for an image, a directive of Streamlit or code as ours does. Images
become text, since fetching one would tell a foreign server who reads here; Mermaid diagrams, which may hold
images, are shown as code.

Also cuts a growing text where a later part can't change how an earlier one is shown. Top-level blocks are
kept whole: a fenced code block, a formula, a list with its loose items and indented parts, a table, a quote,
a paragraph. What is cut off is final and need not be sent to a browser again; a link whose address stands in
a later block (`[name]: url`) becomes one when the whole text is drawn anew. No Streamlit here.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.tree import SyntaxTreeNode

from core.ui.shared.components import escape

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


def _parse_math_block(state: StateBlock, start: int, end: int, silent: bool) -> bool:
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


def _parse_math_inline(state: StateInline, silent: bool) -> bool:
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
        "fence", MATH_BLOCK, _parse_math_block, {"alt": ["paragraph", "reference", "blockquote", "list"]}
    )
    parser.inline.ruler.before("escape", MATH_INLINE, _parse_math_inline)
    return parser


_PARSER = _parser()
_MOST_BRACKET_STEPS = 10_000_000
"""Brackets times characters of one paragraph: 500 links in 20,000 characters."""
_BLOCK_PARSER = _parser().disable(["inline", "text_join"])

References = Mapping[str, Any]
"""Addresses that links name, by their normalised names, as markdown-it keeps them."""


def parse(text: str, references: References | None = None) -> list[Token]:
    return _PARSER.parse(text, {"references": dict(references or {})})


def takes_long(block: str) -> bool:
    """Whether the parser would look for the ends of so many brackets that all visitors have to wait.

    It reads the rest of the paragraph for each one: seconds for some ten thousand.
    """
    if block.count("[") * len(block) <= _MOST_BRACKET_STEPS:
        return False
    lines = (token.content for token in _BLOCK_PARSER.parse(block, {}) if token.type == "inline")
    return any(line.count("[") * len(line) > _MOST_BRACKET_STEPS for line in lines)


class BlockSplitter:
    """Takes text as it comes and gives out whole blocks, each once; `open_text` is what may still change."""

    def __init__(self) -> None:
        self._finished: list[str] = []
        self._open = ""
        self._new: list[str] = []
        self._env: dict[str, Any] = {"references": {}}

    def append(self, text: str) -> None:
        self._new.append(text)

    def take_finished(self) -> list[str]:
        """The blocks that were finished since this was asked last; a long answer's are kept by nobody."""
        self._cut()
        finished, self._finished = self._finished, []
        return finished

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
        tokens = _BLOCK_PARSER.parse(self._decided(), self._env)
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
    return [*splitter.take_finished(), *([rest] if rest else [])], splitter.references


LONG_WORD_CHARS = 500
"""Browsers take minutes to find line breaks in a word of a million characters."""
_LONG_WORD = re.compile(rf"[!-\u2e7f]{{{LONG_WORD_CHARS},}}")
"""Without East Asian text, which breaks anywhere."""
_WORD_PART = re.compile(r".{1,100}", re.S)
_BREAK = "\u200b"
_JOINER = "\u2060"

COLOURED_CODE_CHARS = 8_000
"""Longer code is shown without colours, which take a browser ten times as long as the text."""
MAX_FORMULA_CHARS = 2_000
MAX_FORMULA_DEPTH = 24
"""KaTeX's time grows with the square of the depth."""
_LANGUAGE = re.compile(r"[\w+#.-]{1,40}")
_TASK = re.compile(r"\[([ xX])\](?=\s)")
_MERMAID = "mermaid"


def streamlit_markdown(block: str, references: References | None = None) -> str:
    """The block for `st.markdown`."""
    return write(parse(block, references))


def write(tokens: Sequence[Token]) -> str:
    return "\n\n".join(_blocks(SyntaxTreeNode(tokens).children))


def _blocks(nodes: Iterable[SyntaxTreeNode]) -> Iterable[str]:
    for node in nodes:
        yield _BLOCKS.get(node.type, _unknown)(node)


def _paragraph(node: SyntaxTreeNode) -> str:
    return _Line(display=True).write(node.children)


def _heading(node: SyntaxTreeNode) -> str:
    return "#" * int(node.tag[1:]) + " " + _Line().write(node.children).replace("\n", " ")


def _quote(node: SyntaxTreeNode) -> str:
    return _prefixed("\n\n".join(_blocks(node.children)), "> ", "> ")


def _list(node: SyntaxTreeNode) -> str:
    first = int(node.attrs.get("start", 1))
    tight = all(
        child.hidden for item in node.children for child in item.children if child.type == "paragraph"
    )
    items = []
    for place, item in enumerate(node.children):
        marker = f"{first + place}{node.markup} " if node.type == "ordered_list" else f"{node.markup} "
        content = ("\n" if tight else "\n\n").join(_blocks(item.children))
        items.append(_prefixed(_task(item, content), marker, " " * len(marker)))
    return ("\n" if tight else "\n\n").join(items)


def _task(item: SyntaxTreeNode, content: str) -> str:
    """A box to tick keeps its brackets."""
    inline = item.children[0].children[0] if item.children and item.children[0].type == "paragraph" else None
    box = _TASK.match(inline.content) if inline else None
    return f"[{box[1]}]" + content[len(r"\[ \]") :] if box and content.startswith(r"\[") else content


def _code(node: SyntaxTreeNode) -> str:
    words = node.info.split() if node.type == "fence" else []
    language = words[0] if words and _LANGUAGE.fullmatch(words[0]) else ""
    if language.lower() == _MERMAID or len(node.content) > COLOURED_CODE_CHARS:
        language = "text"
    return _fenced(node.content, language)


def _fenced(content: str, language: str) -> str:
    fence = "`" * max(3, _longest_run(content, "`") + 1)
    return f"{fence}{language}\n{_code_text(content).rstrip(chr(10))}\n{fence}"


def _math_block(node: SyntaxTreeNode) -> str:
    if not node.meta["closed"]:
        return escape(node.meta["opening"] + "\n" + node.content)
    return _formula_block(node.content)


def _formula_block(content: str) -> str:
    if not _is_drawable(content):
        return _fenced(content, "latex")
    fence = "$" * max(2, _longest_run(content, "$") + 1)
    return f"{fence}\n{content}\n{fence}"


def _table(node: SyntaxTreeNode) -> str:
    rows = [
        [_Line(cell=True).write(cell.children) for cell in row.children]
        for part in node.children
        for row in part.children
    ]
    marks = [
        _ALIGNMENTS.get(str(cell.attrs.get("style", "")), "---")
        for cell in node.children[0].children[0].children
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (rows[0], marks, *rows[1:]))


_ALIGNMENTS = {"text-align:left": ":--", "text-align:center": ":-:", "text-align:right": "--:"}


def _unknown(node: SyntaxTreeNode) -> str:
    return escape(node.content)


_BLOCKS: dict[str, Callable[[SyntaxTreeNode], str]] = {
    "paragraph": _paragraph,
    "heading": _heading,
    "blockquote": _quote,
    "bullet_list": _list,
    "ordered_list": _list,
    "fence": _code,
    "code_block": _code,
    "hr": lambda _: "___",
    "table": _table,
    MATH_BLOCK: _math_block,
}


@dataclass(slots=True)
class _Line:
    """The text of one paragraph, heading or table cell."""

    display: bool = False
    """Whether a formula may stand on lines of its own."""
    cell: bool = False
    depth: int = field(default=0)

    def write(self, nodes: Iterable[SyntaxTreeNode]) -> str:
        return "".join(self._node(node) for node in nodes).strip("\n")

    def _node(self, node: SyntaxTreeNode) -> str:
        match node.type:
            case "inline":
                return self._joined(node)
            case "text" | "text_special":
                return escape(breakable(node.content)).replace("\n", "&#10;")
            case "softbreak":
                return " " if self.cell else "\n"
            case "hardbreak":
                return " " if self.cell else "\\\n"
            case "code_inline":
                return self._code(node.content)
            case "em" | "strong" | "s":
                return f"{node.markup}{self._nested(node)}{node.markup}"
            case "link":
                return f"[{self._nested(node)}](<{_address(str(node.attrs['href']))}>)"
            case "image":
                return escape(f"![{node.content}]({node.attrs['src']})")
            case str(kind) if kind in FORMULAS:
                return self._formula(node)
            case _:
                return escape(node.content)

    def _joined(self, node: SyntaxTreeNode) -> str:
        parts: list[str] = []
        for child in node.children:
            part = self._node(child)
            if parts and parts[-1].endswith("$") and parts[-1][-2:] != r"\$" and part[:1] in "$0123456789":
                parts.append(" " if part[0] == "$" else "")
                part = part if part[0] == "$" else f"&#{ord(part[0])};{part[1:]}"
            parts.append(part)
        return "".join(parts)

    def _nested(self, node: SyntaxTreeNode) -> str:
        self.depth += 1
        text = self._joined(node)
        self.depth -= 1
        return text

    def _code(self, content: str) -> str:
        if self.cell and "\\|" in content:
            return escape(content)  # a table has no spelling for it
        fence = "`" * (_longest_run(content, "`") + 1)
        text = _code_text(content)
        if self.cell:
            text = text.replace("|", "\\|")
        pad = " " if not content.strip(" ") or content[0] in "` " or content[-1] in "` " else ""
        return f"{fence}{pad}{text}{pad}{fence}" if content.strip(" ") else f"{fence}{text}{fence}"

    def _formula(self, node: SyntaxTreeNode) -> str:
        content = node.content
        if node.type == MATH_DISPLAY and self.display and self.depth == 0:
            return f"\n{_formula_block(content)}\n"
        content = " ".join(content.split())
        if not _is_drawable(content):
            return self._code(content)
        if self.cell:
            content = content.replace(r"\|", r"\Vert ").replace("|", r"\vert ")
        fence = "$" * (_longest_run(content, "$") + 1)
        pad = " " if "$" in (content[0], content[-1]) else ""
        return f"{fence}{pad}{content}{pad}{fence}"


def _prefixed(text: str, first: str, others: str) -> str:
    head, *rest = text.split("\n")
    lines = [first + head, *(others + line for line in rest)]
    return "\n".join(line.rstrip(" ") if line in (first, others) else line for line in lines)


def _longest_run(text: str, mark: str) -> int:
    return max((len(run) for run in re.findall(re.escape(mark) + "+", text)), default=0)


def _is_drawable(formula: str) -> bool:
    """Whether KaTeX draws the formula in a moment."""
    if len(formula) > MAX_FORMULA_CHARS:
        return False
    depth = 0
    for mark in re.findall(r"\\[{}]|[{}]|\\(?:begin|left|end|right)\b", formula):
        depth += {"{": 1, "}": -1, r"\begin": 1, r"\left": 1, r"\end": -1, r"\right": -1}.get(mark, 0)
        if depth > MAX_FORMULA_DEPTH:
            return False
    return True


def breakable(text: str) -> str:
    """The text with places to break its longest words at."""
    return _LONG_WORD.sub(lambda word: _BREAK.join(_WORD_PART.findall(word[0])), text)


def _code_text(text: str) -> str:
    # Streamlit puts an icon's name in the place of `:material/`, in code too.
    return breakable(text).replace(":material/", f":{_JOINER}material/")


def _address(url: str) -> str:
    return re.sub(r"[\\<>&]", r"\\\g<0>", url)
