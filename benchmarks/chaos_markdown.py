"""Malformed Markdown in a real browser: shown by the code that shows answers, on a page of its own."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import expect, sync_playwright

from benchmarks import chaos_inputs
from benchmarks.chaos_inputs import Outcome
from benchmarks.chaos_pages import browser_tab
from tests.e2e.e2e_dashboard import started_markdown_page

_BATCH = 50
_SHOWN_MS = 30_000


def attempts(numbers: Sequence[int], seed: int) -> Iterator[tuple[int, Outcome]]:
    """First each text by the parser, then some together in the browser; what came of each and of those."""
    foreign: list[str] = []
    with ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="lmdyno-chaos-")))
        url = held.enter_context(started_markdown_page(folder, {}))
        playwright = held.enter_context(sync_playwright())
        page = held.enter_context(browser_tab(playwright, {urlsplit(url).netloc}, foreign))
        for start in range(0, len(numbers), _BATCH):
            batch = numbers[start : start + _BATCH]
            yield from chaos_inputs.attempts("Markdown", batch, seed)
            texts = [chaos_inputs.damaged_markdown(number, seed) for number in batch]
            (folder / "texts.json").write_text(json.dumps({"texts": texts}), "utf-8")
            page.goto(f"{url}/?batch=texts")
            expect(page.get_by_text("The end.", exact=True)).to_be_visible(timeout=_SHOWN_MS)
            page.wait_for_load_state("networkidle")
            failed = page.get_by_test_id("stException").count()
            yield batch[-1], Outcome(foreign=foreign[:], exceptions=["an exception on the page"] * failed)
            foreign.clear()
