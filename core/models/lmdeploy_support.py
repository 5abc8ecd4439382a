"""Architectures that the installed LMDeploy serves, by its own tables.

Its files are read, not imported: importing LMDeploy takes ten seconds and half a gigabyte. The tables are
`SUPPORTED_ARCHS` in `turbomind/supported_models.py` and `MODULE_MAP` in `pytorch/models/module_map.py`.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

_TIMEOUT_S = 30
_LOCATE = "from importlib.util import find_spec; print(find_spec('lmdeploy').origin)"


@dataclass(frozen=True, slots=True, kw_only=True)
class LmdeploySupport:
    """The architectures of one installed LMDeploy, as `architectures` in config.json names them."""

    version: str
    turbomind: frozenset[str]
    pytorch: frozenset[str]


def lmdeploy_support(python: str | None = None) -> LmdeploySupport | None:
    """The tables of the LMDeploy behind an interpreter (LMDyno's own by default).

    None where it isn't installed, and for a version whose tables look different: then nothing is known, and
    LMDeploy itself has to say.
    """
    folder = _own_folder() if python in (None, sys.executable) else _folder_behind(str(python))
    return _read(folder) if folder is not None else None


def _own_folder() -> Path | None:
    spec = find_spec("lmdeploy")
    return Path(spec.origin).parent if spec is not None and spec.origin else None


@lru_cache(maxsize=8)
def _folder_behind(python: str) -> Path | None:
    try:
        done = subprocess.run(
            [python, "-c", _LOCATE],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return Path(done.stdout.strip()).parent


@lru_cache(maxsize=8)
def _read(folder: Path) -> LmdeploySupport | None:
    try:
        version, turbomind, pytorch = (
            ast.parse((folder / name).read_text("utf-8"))
            for name in ("version.py", "turbomind/supported_models.py", "pytorch/models/module_map.py")
        )
    except (OSError, SyntaxError, ValueError):
        return None
    support = LmdeploySupport(
        version=next(_texts_assigned(version, "__version__"), "?"),
        turbomind=frozenset(_keys_assigned(turbomind, "SUPPORTED_ARCHS")),
        pytorch=frozenset(_keys_updated(pytorch, "MODULE_MAP")),
    )
    return support if support.turbomind and support.pytorch else None


def _texts_assigned(tree: ast.Module, name: str) -> Iterator[str]:
    for value in _assigned(tree, name):
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.value


def _keys_assigned(tree: ast.Module, name: str) -> Iterator[str]:
    for value in _assigned(tree, name):
        yield from _keys(value)


def _keys_updated(tree: ast.Module, name: str) -> Iterator[str]:
    """Keys of `NAME = {…}` and of every `NAME.update({…})`."""
    yield from _keys_assigned(tree, name)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or not node.args:
            continue
        owner = node.func.value
        if node.func.attr == "update" and isinstance(owner, ast.Name) and owner.id == name:
            yield from _keys(node.args[0])


def _assigned(tree: ast.Module, name: str) -> Iterator[ast.expr]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == name for target in node.targets
        ):
            yield node.value
        if (
            isinstance(node, ast.AnnAssign)
            and node.value is not None
            and isinstance(node.target, ast.Name)
            and node.target.id == name
        ):
            yield node.value


def _keys(value: ast.expr) -> Iterator[str]:
    """Of a dictionary display, or of `dict(KEY=…)`."""
    if isinstance(value, ast.Dict):
        for key in value.keys:
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                yield key.value
    elif isinstance(value, ast.Call):
        yield from (keyword.arg for keyword in value.keywords if keyword.arg)
