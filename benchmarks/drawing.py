"""What it costs to draw streaming lanes in a real browser, and whether the meter stays accurate meanwhile.

    python -m benchmarks.drawing [--turns N] [--lanes N …] [--json FILE]

A scripted server streams Markdown of 2,000 tokens at 300 tok/s into each lane; the dashboard runs as a
visitor has it, in Chromium. Printed are

- the websocket's bytes for each byte of text (target: at most 25),
- how long after its arrival in the meter text is visible, for the first words of each answer (target: p95 at
  most 150 ms) and for every word, from a MutationObserver in the page,
- with four lanes: the meter's TTFT and TPOT against the server's own clock.

Everything shares one machine: on few cores the browser and the server are part of what is measured.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path

from playwright.sync_api import Page, WebSocket, sync_playwright

from core.domain.runs import RequestRecord
from core.store.runs import Store
from tests.e2e.e2e_dashboard import Chat, started_dashboard

TOKENS = 2000
TOKENS_PER_S = 300
CHROMIUM_ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]

OBSERVER = """
window.seen = {};
const look = () => {
  for (const box of document.querySelectorAll("[class*='st-key-answer_']")) {
    const lane = box.className.match(/st-key-answer_([a-z0-9]+)_/)[1];
    const words = (box.textContent.slice(-400).match(/w\\d+(?=\\W)/g) || []);
    if (!words.length) continue;
    const last = Math.max(...words.map(word => Number(word.slice(1))));
    const lists = (window.seen[lane] ??= []);
    if (!lists.length || lists.at(-1)[1] < last) {
      lists.push([performance.timeOrigin + performance.now(), last]);
    }
  }
};
new MutationObserver(look).observe(document, {subtree: true, childList: true, characterData: true});
"""


def markdown(tokens: int) -> str:
    """An ordinary answer of that many words: paragraphs, a list, a code block, again and again."""
    parts: list[str] = []
    words = (f"w{number}" for number in range(tokens))
    shapes = ["paragraph", "paragraph", "list", "paragraph", "code"]
    while True:
        shape = shapes[len(parts) % len(shapes)]
        lines, length = {"paragraph": (1, 60), "list": (4, 14), "code": (6, 6)}[shape]
        block = [" ".join(islice(words, length)) for _ in range(lines)]
        block = [line for line in block if line]
        if not block:
            return "\n\n".join(parts)
        if shape == "list":
            block = [f"- **point:** {line}" for line in block]
        if shape == "code":
            block = ["```python", *(f"call({line})" for line in block), "```"]
        parts.append("\n".join(block))


TEXT = markdown(TOKENS)
CHUNKS = len(TEXT.split(" "))
"""What the scripted server makes of it: it cuts at spaces and counts each piece as a token."""


@dataclass
class Traffic:
    """Bytes that the page received over its websocket."""

    received_bytes: int = 0

    def watch(self, page: Page) -> None:
        page.on("websocket", self._open)

    def _open(self, websocket: WebSocket) -> None:
        websocket.on("framereceived", self._count)

    def _count(self, payload: bytes | str) -> None:
        self.received_bytes += len(payload)


@dataclass
class Turn:
    """What one turn showed."""

    records: tuple[RequestRecord, ...]
    bytes_per_text_byte: float
    first_visible_s: list[float]
    visible_s: list[float]


@contextmanager
def scripted_server() -> Iterator[str]:
    """In a process of its own, as an engine is; yields the base URL."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.scripted_server", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout
        yield server.stdout.readline().strip()
    finally:
        server.terminate()
        server.wait()


def lanes_file(url: str, names: list[str]) -> str:
    scenario = {"text": TEXT, "first_chunk_s": 0.2, "interval_s": 1 / TOKENS_PER_S}
    model = json.dumps(json.dumps(scenario))
    return "".join(f'[lanes.{name}]\nengine = "endpoint"\nurl = "{url}"\nmodel = {model}\n' for name in names)


def run_turn(page: Page, chat: Chat, traffic: Traffic, store: Store) -> Turn:
    page.keyboard.press("Alt+n")
    page.get_by_text("One prompt, every engine").wait_for()
    page.wait_for_timeout(1500)
    page.evaluate("window.seen = {}")
    before = traffic.received_bytes
    chat.input.fill("Go on.")
    chat.input.press("Enter")
    chat.regenerate.wait_for(timeout=120_000)
    received = traffic.received_bytes - before
    page.wait_for_timeout(1000)
    conversation_id = page.url.partition("conversation=")[2]
    (turn,) = store.conversation(conversation_id)
    first, every = [], []
    for record in turn.requests:
        delays = visible_after(record, page.evaluate("lane => window.seen[lane]", record.lane.name))
        first.append(delays[0])
        every += delays
    text_bytes = sum(len(record.text.encode()) for record in turn.requests)
    return Turn(turn.requests, received / text_bytes, first, every)


def visible_after(record: RequestRecord, seen: list[tuple[float, int]]) -> list[float]:
    """For each word: from its chunk's arrival in the meter until the page showed it, in seconds."""
    assert record.timing
    assert record.sent_at
    sent_s = record.sent_at.timestamp()
    ends = list(accumulate(record.timing.content_chars))
    arrived_s = [
        sent_s + (record.timing.chunk_ns[bisect_left(ends, word.end())] - record.timing.sent_ns) / 1e9
        for word in re.finditer(r"w\d+", record.text)
    ]
    delays: list[float] = []
    for shown_ms, last in seen:
        delays += [shown_ms / 1e3 - arrived for arrived in arrived_s[len(delays) : last + 1]]
    return delays


def accuracy(records: tuple[RequestRecord, ...], server_url: str) -> list[dict[str, float]]:
    """The meter's figures against the server's stamps of the latest requests, matched by their TTFT."""
    with urllib.request.urlopen(server_url.removesuffix("/v1") + "/requests") as answer:
        seen = json.load(answer)[-len(records) :]
    truth = sorted(
        (
            (one["first_chunk_ns"] - one["received_ns"]) / 1e9,
            (one["last_chunk_ns"] - one["first_chunk_ns"]) / 1e9 / (CHUNKS - 1),
        )
        for one in seen
    )
    measured = sorted((record.ttft_s or 0, record.tpot_s or 0) for record in records)
    return [
        {"ttft_error_s": ttft - true_ttft, "tpot_error_ratio": tpot / true_tpot - 1}
        for (ttft, tpot), (true_ttft, true_tpot) in zip(measured, truth, strict=True)
    ]


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


def measure(lanes: int, turns: int) -> dict[str, object]:
    names = [f"lane{number}" for number in range(lanes)]
    with (
        scripted_server() as url,
        tempfile.TemporaryDirectory() as home,
        started_dashboard(Path(home), lanes_file(url, names)) as dashboard,
        sync_playwright() as playwright,
    ):
        path = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGS)
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.add_init_script(OBSERVER)
        traffic = Traffic()
        traffic.watch(page)
        page.goto(dashboard.url)
        chat = Chat(page, dashboard)
        chat.input.wait_for()
        page.get_by_role("radio", name="Together").click()
        max_tokens = page.get_by_role("spinbutton", name="Max tokens")
        page.get_by_text("Sampling").click()
        max_tokens.fill("4096")
        max_tokens.press("Enter")
        page.wait_for_timeout(5000)
        store = Store(f"sqlite:///{home}/lmdyno.db")
        done = [run_turn(page, chat, traffic, store) for _ in range(turns)]
        errors = accuracy(done[-1].records, url)
        browser.close()
    first = [delay for turn in done for delay in turn.first_visible_s]
    every = [delay for turn in done for delay in turn.visible_s]
    return {
        "lanes": lanes,
        "turns": turns,
        "tokens": CHUNKS,
        "tokens_per_s": TOKENS_PER_S,
        "websocket_bytes_per_text_byte": max(turn.bytes_per_text_byte for turn in done),
        "first_text_visible_s": {"p50": statistics.median(first), "p95": p95(first), "n": len(first)},
        "text_visible_s": {"p50": statistics.median(every), "p95": p95(every), "n": len(every)},
        "meter": errors,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--lanes", type=int, nargs="+", default=[3, 4])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = [measure(lanes, arguments.turns) for lanes in arguments.lanes]
    for result in results:
        print(json.dumps(result, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2), "utf-8")


if __name__ == "__main__":
    main()
