"""Documents name what exists: links, paths, folders and commands."""

import re
from pathlib import Path

import pytest

from core.__main__ import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "examples/*.md", "assets/**/*.md", ".github/**/*.md")
    for path in ROOT.glob(pattern)
)
GUIDES = [
    *(ROOT / name for name in ("CONTRIBUTING.md", "README.md", "SECURITY.md")),
    ROOT / "docs" / "architecture.md",
    *sorted((ROOT / "docs" / "decisions").glob("*.md")),
]
"""Documents that describe the code as it is now."""

LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE_PATH = re.compile(r"`((?:core|pages|tests|tools|benchmarks|docs|examples|assets)/[\w./-]*)`")
COMMAND = re.compile(r"\blmdyno ([a-z]+)\b")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_to_files(document):
    targets = [link.split("#")[0] for link in LINK.findall(document.read_text("utf-8"))]
    missing = [
        target
        for target in targets
        if target and "://" not in target and not target.startswith("mailto:")
        if not (document.parent / target).exists()
    ]
    assert not missing


@pytest.mark.parametrize("document", GUIDES, ids=name_of)
def test_paths_of_code_exist(document):
    paths = CODE_PATH.findall(document.read_text("utf-8"))
    assert not [path for path in paths if "NAME" not in path and not (ROOT / path).exists()]


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_commands_exist(document):
    named = set(COMMAND.findall(document.read_text("utf-8")))
    assert named <= COMMANDS.keys()


def test_the_architecture_names_every_folder_of_core():
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    folders = {path.relative_to(ROOT / "core").parts[0] for path in (ROOT / "core").glob("*/**/*.py")}
    assert not [name for name in folders if f"| `{name}/` |" not in text]


def test_every_decision_is_listed():
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text("utf-8")
    assert not [path.name for path in folder.glob("0*.md") if f"({path.name})" not in index]


def test_the_glossary_has_both_languages():
    rows = [
        line
        for line in (ROOT / "docs" / "glossary.md").read_text("utf-8").splitlines()
        if line.startswith("| ") and not line.startswith("| English")
    ]
    assert len(rows) > 40
    assert not [row for row in rows if not all(cell.strip() for cell in row.strip("|").split("|"))]
