"""Malformed Markdown in a real browser: shown by the code that shows answers, on a page of its own."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import expect, sync_playwright

from benchmarks import chaos_inputs
from benchmarks.chaos_inputs import Outcome
from benchmarks.chaos_pages import browser_tab
from tests.e2e.e2e_dashboard import free_port, wait_until_healthy

ROOT = Path(__file__).resolve().parents[1]
_BATCH = 50
_SHOWN_MS = 30_000


def attempts(numbers: Sequence[int], seed: int) -> Iterator[tuple[int, Outcome]]:
    """First each text by the parser, then some together in the browser; what came of each and of those."""
    foreign: list[str] = []
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="lmdyno-chaos-")))
        url = held.enter_context(_page_of(folder))
        playwright = held.enter_context(sync_playwright())
        page = held.enter_context(browser_tab(playwright, {urlsplit(url).netloc}, foreign))
        for start in range(0, len(numbers), _BATCH):
            batch = numbers[start : start + _BATCH]
            yield from chaos_inputs.attempts("Markdown", batch, seed)
            _write(folder, [chaos_inputs.damaged_markdown(number, seed) for number in batch])
            page.goto(f"{url}/?batch=texts")
            expect(page.get_by_text("The end.", exact=True)).to_be_visible(timeout=_SHOWN_MS)
            page.wait_for_load_state("networkidle")
            failed = page.get_by_test_id("stException").count()
            yield batch[-1], Outcome(foreign=foreign[:], exceptions=["an exception on the page"] * failed)
            foreign.clear()


def _write(folder: Path, texts: Sequence[str]) -> None:
    (folder / "texts.json").write_text(json.dumps({"texts": texts}), "utf-8")


@contextmanager
def _page_of(folder: Path) -> Iterator[str]:
    _write(folder, [])
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "streamlit",
        "run",
        "tests/e2e/markdown_page.py",
        "--server.port",
        str(port),
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={
                **os.environ,
                "SHOWN_TEXTS": str(folder / "texts.json"),
                "PYTHONPATH": str(ROOT),
                "LMDYNO_HOME": str(folder),
            },
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}", process, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)
