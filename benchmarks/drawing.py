"""What it costs to draw streaming lanes in a real browser, and whether the meter stays accurate meanwhile.

    python -m benchmarks.drawing [--turns N] [--stops N] [--lanes N …] [--json FILE]

A scripted server streams Markdown of 2,000 tokens at 300 tok/s into each lane; the dashboard runs as a
visitor has it, in Chromium. Printed are

- the websocket's bytes for each byte of text (target: at most 25),
- how long after its arrival in the meter text is visible, for the first word of each answer (target: p95 at
  most 150 ms) and for every word, from a MutationObserver in the page,
- from a click on Stop to the end of the last request (target: 500 ms), and to the page drawn anew,
- the meter's TTFT and TPOT meanwhile, of every request: against the schedule, and against what the server
  wrote by its own timestamps.

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

from core.domain.turns import RequestRecord
from core.store.turns import Store
from tests.e2e.e2e_dashboard import Chat, started_dashboard

TOKENS = 2000
TOKENS_PER_S = 300
CHROMIUM_ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]

OBSERVER = """
window.seen = {};
const look = () => {
  for (const box of document.querySelectorAll("[class*='st-key-answer_']")) {
    const lane = box.className.match(/st-key-answer_([a-z0-9]+)_/)[1];
    const words = (box.textContent.slice(-400).match(/w\\d+/g) || []);  // chunks are whole words
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


STOP = """
() => new Promise(resolve => {
  const now = () => (performance.timeOrigin + performance.now()) / 1e3;
  const button = (place, name) =>
    [...document.querySelectorAll(place + " button")].find(one => one.textContent.includes(name));
  const clicked = now();
  button("[data-testid='stBottomBlockContainer']", "Stop").click();
  const look = () => button("", "Regenerate") ? resolve([clicked, now()]) : requestAnimationFrame(look);
  look();
})
"""
"""Clicks, and waits for what stands at the end of a complete page: both moments, in seconds of the epoch."""

FIRST_CHUNK_S = 0.2
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
def scripted_server(models: list[str]) -> Iterator[str]:
    """In a process of its own, as an engine is; yields the base URL. All models give the same answer."""
    scenario = {"text": TEXT, "first_chunk_s": FIRST_CHUNK_S, "interval_s": 1 / TOKENS_PER_S}
    # By name, since a model is shown on the page: a scenario as its name would be drawn with it.
    scenarios = json.dumps(dict.fromkeys(models, scenario))
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.scripted_server", "--port", "0", "--scenarios", scenarios],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout
        yield server.stdout.readline().strip()
    finally:
        server.terminate()
        server.wait()


def lanes_file(url: str, names: list[str]) -> str:
    return "".join(
        f'[lanes.{name}]\nengine = "endpoint"\nurl = "{url}"\nmodel = "{name}"\n' for name in names
    )


def begin_conversation(page: Page) -> None:
    page.keyboard.press("Alt+n")
    page.get_by_text("One prompt, every engine").wait_for()
    page.wait_for_timeout(1500)
    page.evaluate("window.seen = {}")


def ask(chat: Chat) -> None:
    chat.input.fill("Go on.")
    chat.input.press("Enter")


def run_stop(page: Page, chat: Chat, store: Store) -> tuple[float, float]:
    """From a click in mid-stream to the end of the last request, and to the page that shows it."""
    begin_conversation(page)
    ask(chat)
    page.wait_for_function("Object.keys(window.seen).length > 0")
    page.wait_for_timeout(1500)
    clicked_s, drawn_s = page.evaluate(STOP)
    page.wait_for_timeout(1000)
    (turn,) = store.conversation(page.url.partition("conversation=")[2])
    ended_s = max(
        record.sent_at.timestamp() + (record.timing.ended_ns - record.timing.sent_ns) / 1e9
        for record in turn.requests
        if record.sent_at and record.timing and record.timing.ended_ns
    )
    return ended_s - clicked_s, drawn_s - clicked_s


def run_turn(page: Page, chat: Chat, traffic: Traffic, store: Store) -> Turn:
    begin_conversation(page)
    before = traffic.received_bytes
    ask(chat)
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


def accuracy(turns: list[Turn], server_url: str) -> dict[str, dict[str, float]]:
    """The meter's errors over all requests: against the schedule, and against what the server wrote."""
    with urllib.request.urlopen(server_url.removesuffix("/v1") + "/requests") as answer:
        seen: dict[str, list[dict[str, int]]] = {}
        for one in json.load(answer):
            seen.setdefault(one["body"]["model"], []).append(one)
    errors: dict[str, list[float]] = {}
    for place, turn in enumerate(turns):
        for record in turn.records:
            one = seen[record.lane.name][place]
            written_ttft_s = (one["chunk_ns"][0] - one["received_ns"]) / 1e9
            written_tpot_s = (one["chunk_ns"][-1] - one["chunk_ns"][0]) / 1e9 / (CHUNKS - 1)
            assert record.ttft_s is not None
            assert record.tpot_s is not None
            for name, error in (
                ("ttft_error_s", record.ttft_s - FIRST_CHUNK_S),
                ("ttft_error_to_written_s", record.ttft_s - written_ttft_s),
                ("tpot_error_ratio", record.tpot_s * TOKENS_PER_S - 1),
                ("tpot_error_to_written_ratio", record.tpot_s / written_tpot_s - 1),
            ):
                errors.setdefault(name, []).append(error)
    return {name: summary(values) | {"worst": max(values, key=abs)} for name, values in errors.items()}


def summary(values: list[float]) -> dict[str, float]:
    return {"p50": statistics.median(values), "p95": p95(values), "n": len(values)}


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


def measure(lanes: int, turns: int, stops: int) -> dict[str, object]:
    names = [f"lane{number}" for number in range(lanes)]
    with (
        scripted_server(names) as url,
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
        page.goto(f"{dashboard.url}/chat")
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
        stopped = [run_stop(page, chat, store) for _ in range(stops)]
        errors = accuracy(done, url)
        browser.close()
    return {
        "lanes": lanes,
        "turns": turns,
        "tokens": CHUNKS,
        "tokens_per_s": TOKENS_PER_S,
        "websocket_bytes_per_text_byte": max(turn.bytes_per_text_byte for turn in done),
        "first_text_visible_s": summary([delay for turn in done for delay in turn.first_visible_s]),
        "first_text_visible_by_turn_s": [turn.first_visible_s for turn in done],
        "text_visible_s": summary([delay for turn in done for delay in turn.visible_s]),
        "stop_to_ended_s": [ended_s for ended_s, _ in stopped],
        "stop_to_drawn_s": [drawn_s for _, drawn_s in stopped],
        "meter": errors,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--stops", type=int, default=5, help="turns that are stopped in mid-stream")
    parser.add_argument("--lanes", type=int, nargs="+", default=[3, 4])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = [measure(lanes, arguments.turns, arguments.stops) for lanes in arguments.lanes]
    for result in results:
        print(json.dumps(result, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2), "utf-8")


if __name__ == "__main__":
    main()
