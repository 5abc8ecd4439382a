"""The dashboard as a visitor has it: Streamlit, meter and store for real, a scripted server as engine."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2e_dashboard import Chat, Dashboard, started_dashboard
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests import scripted_server

CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # Nothing leaves this machine.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
]
LOOK_MS = 30_000
"""How long a test waits for something to appear; a loaded machine needs it, a quick one does not."""

LANES = """
[lanes.quick]
engine = "endpoint"
url = "{url}"
model = "markdown"

[lanes.steady]
engine = "endpoint"
url = "{url}"
model = "slow"

[lanes.hanging]
engine = "endpoint"
url = "{url}"
model = "hang"

[lanes.broken]
engine = "endpoint"
url = "{url}"
model = "broken"
"""


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("e2e")
            # Browser, dashboard, meter and server share the machine with whatever else runs there. Once more,
            # and told in the summary; what fails twice fails.
            item.add_marker(pytest.mark.flaky(reruns=1))


@pytest.fixture(scope="session")
def server():
    with scripted_server.running() as running:
        yield running


@pytest.fixture(scope="session")
def lanes(server) -> str:
    return LANES.format(url=server.url)


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory, lanes) -> Iterator[Dashboard]:
    with started_dashboard(tmp_path_factory.mktemp("home"), lanes) as running:
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    names = ("chromium-headless-shell", "chromium", "chromium-browser")
    path = next(filter(None, map(shutil.which, names)), None)  # None: Playwright's own
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGS)
        yield chromium
        chromium.close()


@pytest.fixture
def console_errors() -> list[str]:
    """What the page wrote into the console as errors; a test must leave it empty."""
    return []


@pytest.fixture
def page(browser, console_errors) -> Iterator[Page]:
    """A visitor's tab; the test fails if the page wrote an error into the console.

    It asks for no animations, which are computed all the time and which a click would wait for.
    """
    expect.set_options(timeout=LOOK_MS)
    context = browser.new_context(viewport={"width": 1400, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(LOOK_MS)
    tab = context.new_page()

    def note(message: ConsoleMessage) -> None:
        # Behind a deep link Streamlit looks for its server below the page's path first, and gets a 404.
        probe = "/_stcore/" in message.location["url"]
        if message.type == "error" and not probe:
            console_errors.append(f"{message.text} {message.location['url']}")

    tab.on("console", note)
    tab.on("pageerror", lambda error: console_errors.append(str(error)))
    yield tab
    context.close()
    assert console_errors == []


@pytest.fixture
def chat(page, dashboard) -> Chat:
    return Chat(page, dashboard)
