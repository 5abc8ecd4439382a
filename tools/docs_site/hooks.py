"""MkDocs hooks: pages that are made from the code or lie beside `docs/`, and links that leave the site."""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from reference import PAGES, schema_files

ROOT = Path(__file__).resolve().parents[2]
BESIDE = {
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "README.md": "project/readme.md",
    "examples/README.md": "project/examples.md",
    "assets/scenes-llava/README.md": "project/scenes-llava.md",
    "lanes.example.toml": "reference/lanes.example.toml",
    "assets/icon.svg": "icon.svg",
}
"""Files beside `docs/` that the site shows, and where."""
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")
_SOURCE_OF = {site: source for source, site in BESIDE.items()}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for address, make in PAGES.items():
        files.append(File.generated(config, address, content=make()))
    for name, text in schema_files().items():
        files.append(File.generated(config, f"reference/schemas/{name}", content=text))
    for source, address in BESIDE.items():
        files.append(File.generated(config, address, content=(ROOT / source).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:  # noqa: ARG001
    """Lead links to where the site has the file; what it hasn't becomes a path in the repository."""
    address = page.file.src_uri

    def led(link: re.Match[str]) -> str:
        image, text, target = link.groups()
        path, _hash, anchor = target.partition("#")
        if not path or "://" in target or target.startswith("mailto:"):
            return link[0]
        file = (_place(address).parent / path).resolve()
        if not file.is_relative_to(ROOT) or not file.exists():
            return link[0]  # of the site itself, or wrong: MkDocs says so
        name = file.relative_to(ROOT).as_posix()
        site = BESIDE.get(name) or name.removeprefix("docs/")
        if name in BESIDE or (name.startswith("docs/") and files.get_file_from_path(site)):
            relative = posixpath.relpath(site, posixpath.dirname(address) or ".")
            return f"{image}[{text}]({relative}{f'#{anchor}' if anchor else ''})"
        return text if text.strip("`") == name else f"{text} (`{name}`)"

    return _LINK.sub(led, markdown)


def _place(address: str) -> Path:
    """The file in the repository that a page of the site is made from."""
    return ROOT / _SOURCE_OF.get(address, f"docs/{address}")
