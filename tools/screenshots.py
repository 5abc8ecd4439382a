"""Take the screenshots of the READMEs and the documentation: `python -m tools.screenshots`.

    python -m tools.screenshots [--home DIR] [--only NAME …]

A dashboard with the demo lanes of a machine without a GPU runs in a home folder of its own. The figures in
the images are real, measured while the script runs. Only the votes are drawn at random, and the text
beside the image says so. `--home` keeps the folder, so that a second call needs no new measurements.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from core.config import load_lanes
from core.config.lanes import cpu_features, native_dtype
from core.domain.conversation import Sampling, StoredImage
from core.domain.runs import HistoryFilter, RunKind
from core.domain.sessions import Session, SessionPlan, SessionState, Verdict, Vote
from core.images.gallery import gallery
from core.sessions.items import assigned_items, build_ballot, prompt_set, shipped_set, usable_texts
from core.settings import PROJECT_ROOT, Settings, load_settings
from core.store.history import History
from core.store.sessions import Sessions, Votes
from core.store.turns import Store
from tests.e2e.e2e_dashboard import settle, started_dashboard

LANES = """
[models.smollm2]
checkpoint = "demo"

[models.scenes]
checkpoint = "demo-vision"

[lanes.hf]
engine = "transformers"
model = "smollm2"
dtype = "{dtype}"
device = "cpu"

[lanes.hf-q4]
engine = "transformers"
model = "smollm2"
weights = "gguf"
device = "cpu"

[lanes.llava-hf]
engine = "transformers"
model = "scenes"
dtype = "{dtype}"
device = "cpu"
"""
DOCS = PROJECT_ROOT / "docs"
VIEWPORT = {"width": 1440, "height": 900}
MOST_BYTES = 60_000
LOOK_MS = 120_000
CHROMIUM_ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
VOTERS = 4
PROMPTS = 12
TASKS = PROJECT_ROOT / "core" / "quality" / "tasks" / "data" / "english.jsonl"
QUESTIONS = 12


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One view, and the files that show it."""

    address: Callable[[Settings], str]
    """The page's path and query."""
    files: dict[str, str]
    """By language (`en`, `zh`), relative to `docs/`."""
    prepare: Callable[[Page], None] = lambda _page: None
    """What to do on the page before the picture."""


def ids(settings: Settings, kind: RunKind) -> list[str]:
    """The entries of the history, newest first."""
    with closing(History(settings.database_url)) as history:
        return [entry.id for entry in history.entries(HistoryFilter(kind=kind))]


def conversation(settings: Settings, prompt: str) -> str:
    """The conversation with the newest turn that asks this."""
    with closing(History(settings.database_url)) as history:
        entry = history.entries(HistoryFilter(kind=RunKind.CHAT, text=prompt), limit=1)[0]
    with closing(Store(settings.database_url)) as store:
        turn = store.turn(entry.id)
        assert turn is not None
        return turn.conversation_id


def session_id(settings: Settings) -> str:
    with closing(Sessions(settings.database_url)) as sessions:
        return sessions.summaries()[0].id


def voting_address(settings: Settings) -> str:
    """Where somebody votes who has just joined."""
    name = "Visitor"
    with closing(Sessions(settings.database_url)) as sessions, closing(Votes(settings.database_url)) as votes:
        session = sessions.session(session_id(settings))
        seats = {person.name: person for person in votes.participants(session.id)}
        person = seats.get(name) or votes.join(session.id, name)
    return f"/?session={session.link}&seat={person.code}"


def show_charts(page: Page) -> None:
    """Scroll to the tabs with the results' charts."""
    tabs = page.get_by_test_id("stTabs").first
    expect(tabs.locator(".js-plotly-plot").first).to_be_visible()
    tabs.evaluate("tabs => tabs.scrollIntoView({block: 'center'})")


def open_results(page: Page) -> None:
    page.get_by_role("tab", name="Results").click()
    expect(page.locator(".js-plotly-plot").first).to_be_visible()


SCENE = gallery()[0]
QUESTION = "What is the capital of Japan?"

SHOTS: dict[str, Shot] = {
    "overview": Shot(
        address=lambda _settings: "/", files={"en": "images/overview.png", "zh": "images/overview.zh.png"}
    ),
    "chat": Shot(
        address=lambda s: f"/chat?conversation={conversation(s, QUESTION)}",
        files={"en": "chat.png", "zh": "chat.zh.png"},
    ),
    "vision": Shot(
        address=lambda s: f"/vision?conversation={conversation(s, SCENE.questions[0].question)}",
        files={"en": "images/vision.png"},
    ),
    "benchmark": Shot(
        address=lambda s: f"/benchmark?bench_run={ids(s, RunKind.BENCH)[0]}",
        files={"en": "images/benchmark.png", "zh": "images/benchmark.zh.png"},
        prepare=show_charts,
    ),
    "run": Shot(address=lambda s: f"/history?run={ids(s, RunKind.BENCH)[0]}", files={"en": "images/run.png"}),
    "quality": Shot(
        address=lambda s: f"/history?quality={ids(s, RunKind.QUALITY)[0]}", files={"en": "images/quality.png"}
    ),
    "sessions": Shot(
        address=lambda s: f"/sessions?id={session_id(s)}",
        files={"en": "sessions-results.png"},
        prepare=open_results,
    ),
    "voting": Shot(address=voting_address, files={"en": "sessions-voting.png"}),
    "engines": Shot(address=lambda _settings: "/engines", files={"en": "images/engines.png"}),
    "memory": Shot(address=lambda _settings: "/memory", files={"en": "images/memory.png"}),
    "history": Shot(address=lambda _settings: "/history", files={"en": "images/history.png"}),
}


def command(*words: str) -> None:
    """Run a command of LMDyno; its output goes to this terminal."""
    subprocess.run([sys.executable, "-m", "core", *words], cwd=PROJECT_ROOT, check=True)


def measure(settings: Settings) -> None:
    """Everything that the pages show, unless the home folder has it already."""
    lanes = ("--lane", "hf", "--lane", "hf-q4")
    if not ids(settings, RunKind.CHAT):
        command("chat", QUESTION, *lanes)
        command("chat", SCENE.questions[0].question, "--lane", "llava-hf", "--image", str(SCENE.path))
    if not ids(settings, RunKind.BENCH):
        plan = ("--concurrency", "1,2,4", "--requests", "4", "--prompt-tokens", "32", "--output-tokens", "16")
        command("bench", *lanes, *plan)
    if not ids(settings, RunKind.QUALITY):
        tasks = settings.home / "tasks.jsonl"
        tasks.write_text("\n".join(TASKS.read_text("utf-8").splitlines()[:QUESTIONS]), "utf-8")
        texts = ("--prompts", "6", "--answer-tokens", "16", "--text", "own-answers", "--no-logits")
        command("quality", *lanes, "--reference", "hf", "--tasks", str(tasks), *texts)
    with closing(Sessions(settings.database_url)) as sessions:
        if not sessions.summaries():
            hold_session(settings, sessions)


def hold_session(settings: Settings, sessions: Sessions) -> None:
    """A session with real answers; each vote is drawn at random."""
    shipped = shipped_set("english", _no_image)
    lanes = {lane.name: lane for lane in load_lanes(settings, gpu=False).lanes}
    plan = SessionPlan(
        title="Which lane for the help desk?",
        purpose="We choose the lane that answers our help desk.",
        lanes=(lanes["hf"], lanes["hf-q4"]),
        prompts=prompt_set(shipped.name, shipped.prompts[:: len(shipped.prompts) // PROMPTS][:PROMPTS]),
        sampling=Sampling(temperature=0.7, seed=1, max_tokens=24),
        votes_per_person=PROMPTS,
        results_hidden=False,
    )
    session = sessions.create(Session(plan=plan, state=SessionState.DRAFT))
    command("sessions", "answers", session.id)
    ballot = build_ballot(plan, usable_texts(sessions.answers(session.id)))
    sessions.open_voting(session.id, ballot.items, identical_pairs=ballot.identical_pairs)
    chance = random.Random(1)
    with closing(Votes(settings.database_url)) as votes:
        for seat in range(VOTERS):
            person = votes.join(session.id, f"Voter {seat + 1}")
            for assigned in assigned_items(session.id, plan, ballot.items, seat):
                verdict = chance.choice((Verdict.PREFERRED, Verdict.PREFERRED, Verdict.TIE))
                order = tuple(chance.sample(assigned.shown, len(assigned.shown)))
                votes.vote(
                    session.id,
                    Vote(
                        participant_id=person.id,
                        item=assigned.item,
                        shown=assigned.shown,
                        verdict=verdict,
                        order=order if verdict is Verdict.PREFERRED else (),
                    ),
                )


def _no_image(name: str) -> StoredImage:
    raise LookupError(name)  # the English prompts have none


def save(png: bytes, file: Path) -> None:
    """As a small PNG: with a palette, of fewer colours until it has at most `MOST_BYTES`."""
    image = Image.open(BytesIO(png)).convert("RGB")
    for colours in (256, 128, 64, 32, 16):
        packed = BytesIO()
        image.quantize(colours, dither=Image.Dither.NONE).save(packed, "PNG", optimize=True)
        if packed.tell() <= MOST_BYTES:
            break
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(packed.getvalue())
    print(f"{file.relative_to(PROJECT_ROOT)}: {packed.tell()} bytes, {colours} colours")


def photograph(url: str, settings: Settings, names: Iterable[str]) -> None:
    expect.set_options(timeout=LOOK_MS)
    executable = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_ARGS)
        for name in names:
            shot = SHOTS[name]
            for language, file in shot.files.items():
                context = browser.new_context(
                    viewport=VIEWPORT, color_scheme="light", reduced_motion="reduce"
                )
                context.set_default_timeout(LOOK_MS)
                page = context.new_page()
                address = shot.address(settings)
                page.goto(f"{url}{address}{'&' if '?' in address else '?'}lang={language}")
                settle(page)
                shot.prepare(page)
                settle(page)
                expect(page.get_by_test_id("stSkeleton")).to_have_count(0)
                page.wait_for_load_state("networkidle")
                save(page.screenshot(animations="disabled"), DOCS / file)
                context.close()
        browser.close()


@contextmanager
def home_folder(named: Path | None) -> Iterator[Path]:
    """The folder that was named, or one that is gone afterwards; with links to the demo models."""
    with tempfile.TemporaryDirectory() as temporary:
        home = (named or Path(temporary)).resolve()
        models = PROJECT_ROOT / ".lmdyno" / "models"
        if not models.is_dir():
            sys.exit("The demo models aren't there. Make them with `make demo`.")
        if not (home / "models").exists():
            shutil.copytree(models, home / "models", copy_function=os.link)
        yield home


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--home", type=Path, help="keep the measurements in this folder, on the models' disk")
    parser.add_argument("--only", action="append", choices=SHOTS, help="only this image; can be repeated")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that engines are stopped then too
    with home_folder(arguments.home) as home:
        lanes_file = home / "lanes.toml"
        lanes_file.write_text(LANES.format(dtype=native_dtype(cpu_features())), "utf-8")
        os.environ.update(LMDYNO_HOME=str(home), LMDYNO_LANES=str(lanes_file))
        settings = load_settings()
        try:
            for lane in ("hf", "hf-q4"):
                command("engines", "start", lane)
            measure(settings)
            with started_dashboard(home, lanes_file.read_text("utf-8")) as dashboard:
                photograph(dashboard.url, settings, arguments.only or SHOTS)
        finally:
            command("engines", "stop", "--all", "--force")


if __name__ == "__main__":
    main()
