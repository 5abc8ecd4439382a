"""The vision page in a real browser: over a scripted server, and with the demo model where it is shipped."""

import base64
import re
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from e2e_dashboard import Dashboard, settle, started_dashboard
from PIL import Image
from playwright.sync_api import Page, expect

from core.config import VISION_DEMO_NAME
from core.images.gallery import gallery
from core.settings import load_settings

LANES = """
[lanes.sees]
engine = "endpoint"
url = "{url}"
model = "hello"
vision = true

[lanes.blind]
engine = "endpoint"
url = "{url}"
model = "hello"
vision = false
"""


def image(color: str, name: str) -> dict:
    """A file as a visitor chooses it."""
    file = BytesIO()
    Image.new("RGB", (48, 32), color).save(file, "PNG")
    return {"name": name, "mimeType": "image/png", "buffer": file.getvalue()}


COPY = """async (data) => {
    const image = await fetch(`data:image/png;base64,${data}`)
    await navigator.clipboard.write([new ClipboardItem({"image/png": await image.blob()})])
}"""


class Vision:
    """The vision page's handles."""

    def __init__(self, page: Page, dashboard: Dashboard) -> None:
        self.page = page
        self.url = f"{dashboard.url}/vision"

    def open(self) -> "Vision":
        self.page.goto(self.url)
        expect(self.prompt).to_be_enabled()
        return self

    @property
    def prompt(self):
        return self.page.get_by_test_id("stChatInputTextArea")

    @property
    def attachments(self):
        return self.page.locator(".st-key-vision_attachments").get_by_role("img")

    @property
    def thumbnails(self):
        return self.page.get_by_test_id("stChatMessage").get_by_role("img", name=re.compile("pixels"))

    @property
    def regenerate(self):
        return self.page.get_by_role("button", name="Regenerate")

    def answer(self, lane: str):
        return self.page.locator(f"[class*='st-key-answer_{lane}_']").last

    def attach(self, *files: dict) -> None:
        chooser = self.page.get_by_test_id("stChatInput").locator("input[type=file]")
        chooser.set_input_files(list(files))
        for file in files:
            expect(self.attached(file["name"])).to_be_visible()

    def paste(self, file: dict) -> None:
        """Copy an image as a screenshot tool does, and press Ctrl+V; the browser names it itself."""
        self.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page.evaluate(COPY, base64.b64encode(file["buffer"]).decode())
        self.prompt.click()
        self.page.keyboard.press("Control+V")
        expect(self.attached("image.png")).to_be_visible()

    def drop(self, path: Path) -> None:
        """Drag a file of this machine over the prompt and let it go."""
        box = self.prompt.bounding_box()
        mouse = self.page.context.new_cdp_session(self.page)
        held = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        at = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        for kind in ("dragEnter", "dragOver"):
            mouse.send("Input.dispatchDragEvent", {"type": kind, "data": held, **at})
        expect(self.page.get_by_text("Drag and drop files here")).to_be_visible()
        mouse.send("Input.dispatchDragEvent", {"type": "drop", "data": held, **at})
        expect(self.attached(path.name)).to_be_visible()

    def attached(self, name: str):
        """A file that waits beside the prompt."""
        return self.page.get_by_test_id("stChatInput").get_by_text(name)

    def send(self, question: str) -> None:
        """Write it and press Enter, which the prompt takes no notice of while files are on their way."""
        self.prompt.fill(question)
        expect(self.page.get_by_test_id("stChatInputSubmitButton")).to_be_enabled()
        self.prompt.press("Enter")

    def ask(self, question: str, *, timeout_s: float = 30) -> None:
        """Send the question and wait until all lanes have answered it."""
        asked = self.page.get_by_test_id("stChatMessage").get_by_text(question)
        before = asked.count()
        self.send(question)
        expect(asked).to_have_count(before + 1)
        settle(self.page, timeout_s=timeout_s)
        expect(self.regenerate).to_be_visible(timeout=timeout_s * 1000)


@pytest.fixture(scope="module")
def lanes(server) -> str:
    return LANES.format(url=server.url)


@pytest.fixture
def vision(page, dashboard) -> Vision:
    return Vision(page, dashboard)


def sent_urls(seen) -> list[list[str]]:
    """The image URLs of each message of a request."""
    contents = [message["content"] for message in seen.body["messages"]]
    return [
        [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
        if isinstance(content, list)
        else []
        for content in contents
    ]


def test_an_image_reaches_the_server_and_stays_in_the_conversation(vision, server):
    vision.open()
    expect(vision.page.get_by_test_id("stSidebar").get_by_role("button", name="■ blind")).to_have_count(0)
    vision.attach(image("red", "red.png"))
    vision.ask("What do you see?")
    expect(vision.thumbnails).to_have_count(1)
    expect(vision.answer("sees")).to_contain_text("Hello from the script.")
    expect(vision.page.get_by_text("TTFT with 1 image")).to_be_visible()
    ((red,),) = sent_urls(server.seen[-1])
    assert red.startswith("data:image/png;base64,")

    vision.attach(image("blue", "blue.png"))
    vision.ask("And now?")
    expect(vision.thumbnails).to_have_count(2)
    (first,), _, (second,) = sent_urls(server.seen[-1])
    assert first == red != second

    vision.page.reload()
    expect(vision.thumbnails).to_have_count(2)
    for place in (0, 1):
        loaded = vision.thumbnails.nth(place)
        vision.page.wait_for_function("image => image.naturalWidth > 0", arg=loaded.element_handle())


def test_a_pasted_and_a_dropped_image_reach_the_server(vision, server, tmp_path):
    vision.open()
    vision.paste(image("red", "red.png"))
    file = tmp_path / "blue.png"
    file.write_bytes(image("blue", "blue.png")["buffer"])
    vision.drop(file)
    vision.ask("Which colors?")
    expect(vision.thumbnails).to_have_count(2)
    (urls,) = sent_urls(server.seen[-1])
    assert [color_of(url) for url in urls] == [(255, 0, 0), (0, 0, 255)]


def color_of(url: str) -> tuple[int, int, int]:
    """The first pixel of an image in a data URL."""
    data = base64.b64decode(url.partition(",")[2])
    return Image.open(BytesIO(data)).convert("RGB").getpixel((0, 0))


def test_bad_files_say_why_and_the_good_ones_stay(vision):
    vision.open()
    svg = {
        "name": "logo.svg",
        "mimeType": "image/svg+xml",
        "buffer": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    }
    vision.attach(
        image("red", "good.png"), {"name": "bad.png", "mimeType": "image/png", "buffer": b"nothing"}, svg
    )
    vision.send("What is it?")
    expect(vision.page.get_by_test_id("stAlert")).to_have_count(2)
    expect(vision.page.get_by_test_id("stAlert").first).to_contain_text("bad.png")
    expect(vision.page.get_by_test_id("stAlert").last).to_contain_text("logo.svg")
    expect(vision.attachments).to_have_count(1)
    expect(vision.prompt).to_have_value("What is it?")


def test_gallery_and_remove_fill_and_empty_the_tray(vision):
    page = vision.open().page
    page.get_by_role("button", name="Gallery").click()
    dialog = page.get_by_role("dialog")
    images = dialog.locator("[class*='st-key-vision_gallery_']").get_by_role("button")
    expect(images.nth(1)).to_be_visible()
    names = images.all_inner_texts()
    assert len(set(names)) == len(names) > 1
    images.first.click()
    expect(dialog.get_by_role("button", disabled=True)).to_have_count(1)
    dialog.get_by_role("button", name="Done").click()
    expect(dialog).to_have_count(0)
    expect(vision.attachments).to_have_count(1)
    expect(page.get_by_text("1 of 8 images")).to_be_visible()
    page.get_by_role("button", name="Remove").click()
    expect(vision.attachments).to_have_count(0)


def test_a_quiz_runs_beside_the_page_and_shows_what_was_right(vision):
    page = vision.open().page
    page.get_by_role("tab", name="Quiz").click()
    page.get_by_role("radio", name="Custom set").click()
    lines = '{"image": "a.png", "question": "Who speaks?", "answers": ["script"]}\n' * 2
    page.get_by_test_id("stFileUploader").locator("input[type=file]").set_input_files(
        [
            {"name": "set.jsonl", "mimeType": "application/json", "buffer": lines.encode()},
            image("red", "a.png"),
        ]
    )
    expect(page.get_by_text("set.jsonl")).to_be_visible()
    page.get_by_role("button", name="Ask all").click()
    expect(page.get_by_text("100% (2 of 2)")).to_be_visible()
    expect(page.get_by_text("Who speaks?")).to_have_count(2)
    expect(page.locator(".js-plotly-plot")).to_have_count(2)


@pytest.fixture
def demo_dashboard(tmp_path) -> Iterator[Dashboard]:
    """A dashboard of its own with the machine's default lanes and the demo models in its home."""
    from core.models import demo_models

    made = load_settings()
    demo_models.prepare_text(made, lambda _: None)
    prepared = Path(demo_models.prepare_vision(made, lambda _: None).checkpoint)
    home = tmp_path / "home"
    (home / "models").mkdir(parents=True)
    shutil.copytree(
        prepared, home / "models" / prepared.name, copy_function=lambda a, b: Path(b).symlink_to(a)
    )
    lanes = (
        f'[models.{VISION_DEMO_NAME}]\ncheckpoint = "{home / "models" / prepared.name}"\n'
        f'[lanes.llava-hf]\nengine = "transformers"\nmodel = "{VISION_DEMO_NAME}"\n'
        'dtype = "bfloat16"\ndevice = "cpu"\n'
    )
    with started_dashboard(home, lanes) as running:
        yield running


SEEN = (
    ("yellow-stars", "white", "top right"),
    ("big-and-small", "orange", "bottom right"),
)
"""Scenes with a moon: its colour and its place."""


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_the_demo_model_sees_the_image(demo_dashboard, page):
    """Two scenes with different answers to the same questions: right for both only if the image is seen."""
    scenes = {shown.name: shown for shown in gallery()}
    vision = Vision(page, demo_dashboard).open()
    for name, color, place in SEEN:
        file = scenes[name].path
        vision.attach({"name": file.name, "mimeType": "image/png", "buffer": file.read_bytes()})
        vision.ask("What color is the moon?", timeout_s=240)
        expect(vision.answer("llava-hf")).to_contain_text(color, timeout=60_000)
        vision.ask("Where is it?", timeout_s=240)
        expect(vision.answer("llava-hf")).to_contain_text(place, timeout=60_000)
        page.get_by_role("button", name="New conversation").click()
        expect(vision.thumbnails).to_have_count(0)
