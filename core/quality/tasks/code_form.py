"""Code in one form, in which it is compared; it is read, never executed.

Python becomes its syntax tree, without docstrings and annotations, and with arguments and local names
numbered in the order in which they appear: formatting, comments and names make no difference. Anything else,
and Python that does not parse, is compared as text without comments and blank space.
"""

import ast
import re
from collections.abc import Iterable

_FENCE = re.compile(r"```[\w+-]*\n(.*?)(?:```|\Z)", re.DOTALL)
_COMMENT = re.compile(r"(?m)(?:#|//).*$")
_MOST_CHARS = 20_000


def same_code(text: str, expected: Iterable[str]) -> bool:
    """Whether the code in an answer is the same as one of the expected pieces."""
    form = _form(code_in(text))
    return bool(form) and any(form == _form(code_in(code)) for code in expected)


def code_in(text: str) -> str:
    """The first fenced block of an answer, else the whole answer."""
    fenced = _FENCE.search(text)
    return (fenced.group(1) if fenced else text).strip()


def _form(code: str) -> str:
    if len(code) > _MOST_CHARS:
        return ""
    try:
        tree = ast.parse(code)
        return ast.dump(_Plain().visit(tree))
    # Deeply nested text exhausts the parser's stack or memory.
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return " ".join(re.findall(r"\w+|[^\w\s]", _COMMENT.sub("", code)))


class _Plain(ast.NodeTransformer):
    """Numbers local names; drops docstrings and annotations."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            self._number(argument.arg)
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                self._number(inner.id)
        if ast.get_docstring(node, clean=False) is not None and len(node.body) > 1:
            node.body = node.body[1:]
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        node.arg = self._names.get(node.arg, node.arg)
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        node.id = self._names.get(node.id, node.id)
        return node

    def _number(self, name: str) -> None:
        self._names.setdefault(name, f"name{len(self._names)}")
