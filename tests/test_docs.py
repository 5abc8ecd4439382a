"""Documents name what exists: links, paths, folders and commands."""

import re
from pathlib import Path

import pytest
from docs_site import reference

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
COMMAND = re.compile(r"\blmdyno (?:--lang \w+ )?([a-z]+)\b")
READMES = {"en": ROOT / "README.md", "zh": ROOT / "README.zh-CN.md"}


GENERATED = {ROOT / "docs" / page for page in reference.PAGES}
"""Pages of the site that no file has."""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_lead_to_files(document):
    targets = [link.split("#")[0] for link in LINK.findall(document.read_text("utf-8"))]
    missing = [
        target
        for target in targets
        if target and "://" not in target and not target.startswith("mailto:")
        if not (document.parent / target).exists() and (document.parent / target).resolve() not in GENERATED
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


def heading_levels(text: str) -> list[int]:
    return [len(line) - len(line.lstrip("#")) for line in text.splitlines() if re.match(r"#+ ", line)]


def commands(text: str) -> list[str]:
    """The indented lines, without what the comments say."""
    return [line.split(" #")[0].strip() for line in text.splitlines() if line.startswith("    ")]


def paragraph_counts(text: str) -> list[int]:
    """List items, numbered steps and table rows of each section."""
    sections = re.split(r"^#+ .*$", text, flags=re.MULTILINE)
    return [len(re.findall(r"^(?:- |1\. |\|)", section, re.MULTILINE)) for section in sections]


def linked_files(text: str) -> set[str]:
    images = re.compile(r"!\[[^]]*\]\([^)]*\)")
    return {target for target in LINK.findall(images.sub("", text)) if not target.startswith("README")}


def code_of_tables(text: str) -> list[str]:
    """What the rows of tables begin with, where that is code."""
    return re.findall(r"^\| (`[^`]+`)", text, re.MULTILINE)


@pytest.mark.parametrize(
    "part",
    [heading_levels, commands, paragraph_counts, linked_files, code_of_tables],
    ids=lambda f: f.__name__,
)
def test_both_readmes_say_the_same(part):
    english, chinese = (part(READMES[language].read_text("utf-8")) for language in ("en", "zh"))
    assert english
    assert chinese == english


@pytest.mark.parametrize("language", READMES)
def test_each_readme_shows_the_dashboard_in_its_language(language):
    text = READMES[language].read_text("utf-8")
    assert f"](docs/{'chat' if language == 'en' else f'chat.{language}'}.png)" in text


def test_the_site_shows_every_page():
    navigation = (ROOT / "mkdocs.yml").read_text("utf-8").split("\nnav:\n")[1]
    shown = re.findall(r"([\w./-]+\.md)$", navigation, re.MULTILINE)
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert pages <= set(shown)
    assert set(shown) - pages - reference.PAGES.keys() == {
        page for page in shown if page.startswith("project/")
    }
    assert len(shown) == len(set(shown))


def test_each_kind_of_fault_names_a_test_that_exists():
    rows = (ROOT / "docs" / "robustness.md").read_text("utf-8").split("## Kills and damage")[0].splitlines()
    cells = [row.rsplit("|", 2)[1].strip() for row in rows if row.startswith("| ") and "| kind |" not in row]
    tests = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")}
    named = [name for cell in cells for name in re.findall(r"`([\w/]*\.py)`", cell)]
    missing = [name for name in named if not any(f"/{path}".endswith(f"/{name}") for path in tests)]
    assert missing == []
    assert [cell for cell in cells if ".py`" not in cell and cell != "the same"] == []
