"""The images of the documentation: made by the script, small, and used."""

import re
from itertools import chain
from pathlib import Path

import pytest

from tools.screenshots import DOCS, MOST_BYTES, SHOTS

FILES = sorted({file for shot in SHOTS.values() for file in shot.files.values()})


def test_every_screenshot_comes_from_the_script():
    assert sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.png")) == FILES


@pytest.mark.parametrize("file", FILES)
def test_a_screenshot_is_small_and_shown_in_its_language(file):
    assert (DOCS / file).stat().st_size <= MOST_BYTES
    documents = chain(DOCS.rglob("*.md"), DOCS.parent.glob("README*.md"))
    showing = [path for path in documents if shows(path, DOCS / file)]
    assert showing
    is_chinese = {path.name.split(".")[1].startswith("zh") for path in showing}
    assert is_chinese == {file.endswith(".zh.png")}


def shows(document: Path, image: Path) -> bool:
    links = re.findall(r"!\[[^]]*\]\(([^)]+)\)", document.read_text("utf-8"))
    return image in [(document.parent / link).resolve() for link in links]
