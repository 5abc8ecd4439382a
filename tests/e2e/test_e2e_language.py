"""The dashboard in Chinese and in English in a real browser, on every page."""

import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
from e2e_dashboard import Dashboard, settle
from e2e_texts import VISIBLE_TEXTS, english_words, everything_opened
from playwright.sync_api import Browser, Page, expect

from core.codec import encode
from core.domain.runs import QualityRecord
from core.images.gallery import gallery
from core.settings import PROJECT_ROOT
from core.store.runs import BenchRuns, QualityRuns
from core.store.sessions import Sessions, Votes
from tests.unit.bench.bench_samples import a_failure, a_pass, a_plan, a_record, a_request, remote
from tests.unit.quality import quality_samples
from tests.unit.sessions.session_samples import answers, open_session, plan

WIDTH_PX = 1280
NAMES = frozenset(
    {
        *("Transformers", "transformers", "Python", "Parquet", "Streamlit", "Wilson", "Ollama", "Linux"),
        *(
            "English",
            "token",
            "logits",
            "min",
            "auto",
            "dtype",
            "curl",
            "hub",
            "chat",
            "openwebtext",
            "pileval",
            "lmdeploy",
            "torch",
            "torchvision",
            "triton",
            "gguf",
            "pipeline",
            "temperature",
            "seed",
            "Comparator",
            "Lines",
            "Esc",
        ),
        *("awq", "turbomind", "smol", "lab", "script", "quick", "steady", "hanging", "broken"),
        *("markdown", "slow", "hang"),
    }
)
"""Names of programs, formats, settings and units; then those of the tests' lanes, models and machine."""
STREAMLITS_OWN = re.compile(
    r"Language / 语言|Skip to main content|\d+ more|Upload|Browse files|Drag and drop .*|.* per file.*"
    r"|file upload|yyyy|Choose or add an option|Help for .*|Chat message from .*|Choose (an option|options)"
    r"|Alt \+ \w|Press Enter to .*|Fullscreen.*"
)
"""Labels that Streamlit writes in English in any language."""
CODE = re.compile(r"seat=(\w+)")
"""A voter's code in an address; eight random letters and digits, which can look like a word."""
EXAMPLES = re.compile(r"It failed|\{.*|对话：.*", re.DOTALL)
"""A sample's error, JSON to be written in a field, and the title of a recorded conversation."""
QUESTIONS = frozenset(asked.question for image in gallery() for asked in image.questions)
"""About the gallery's images: the demo model, which knows their answers, reads English alone."""


@pytest.fixture(scope="module", autouse=True)
def patience() -> None:
    """The check of this machine takes its time."""
    expect.set_options(timeout=60_000)


@pytest.fixture(scope="module")
def views(dashboard: Dashboard) -> dict[str, str]:
    """Addresses of views that need something stored, by what they show."""
    url = f"sqlite:///{dashboard.home / 'lmdyno.db'}"
    bench = a_record(
        a_plan(remote("quick"), remote("steady"), title="甲"),
        [a_pass(0, ("quick",)), a_pass(1, ("steady",))],
        [
            *(a_request(number, "quick") for number in range(6)),
            *(a_request(number, "steady", pass_number=1) for number in range(6)),
            a_failure(6, "connection-lost", "quick"),
        ],
    )
    quality = in_chinese(quality_samples.record())
    drafted = plan("quick", "steady", prompts=10, title="乙")
    with (
        closing(BenchRuns(url)) as bench_runs,
        closing(QualityRuns(url)) as quality_runs,
        closing(Sessions(url)) as sessions,
        closing(Votes(url)) as votes,
    ):
        bench_runs.save(bench.run, bench.passes, bench.requests)
        quality_runs.save(quality.run, quality.answers)
        session = sessions.create(open_session(drafted))
        sessions.save_answers(session.id, answers(drafted))
        person = votes.join(session.id, "阿达")
    return {
        "a load test": f"history?run={bench.run.id}",
        "a quality run": f"history?quality={quality.run.id}",
        "a session": f"sessions?id={session.id}",
        "presenting": f"sessions?id={session.id}&present=1",
        "joining": f"?session={session.link}",
        "voting": f"?session={session.link}&seat={person.code}",
    }


def in_chinese(record: QualityRecord) -> QualityRecord:
    """The sample with Chinese for what its models and people wrote."""
    plan = quality_samples.plan(
        title="丙",
        prompts=("你好。", "再见。", "完。"),
        tasks=tuple(replace(task, prompt="二加二是几？") for task in quality_samples.TASKS),
    )
    run = replace(record.run, plan=encode(plan).decode(), title=plan.title)
    answers = tuple(replace(answer, text=f"{answer.lane[0]}。") for answer in record.answers)
    return replace(record, run=run, answers=answers)


@pytest.fixture(scope="module")
def paths(dashboard: Dashboard, browser: Browser, views: dict[str, str]) -> list[str]:
    """Every page of the navigation, and the views."""
    page = browser.new_page(viewport={"width": 2600, "height": 900})  # in a narrow one some are in a menu
    page.goto(dashboard.url)
    expect(page.get_by_test_id("stTopNavLink").first).to_be_visible()
    settle(page)
    addresses = [link.get_attribute("href") or "" for link in page.get_by_test_id("stTopNavLink").all()]
    page.close()
    files = [path.stem for path in (PROJECT_ROOT / "pages").glob("*.py")]
    hidden = ["recordings"]
    assert len(addresses) + len(hidden) + 1 == len(files), "all pages, and the one for voting"
    return [address.rsplit("/", 1)[-1] for address in addresses] + hidden + list(views.values())


@pytest.mark.timeout(400)
def test_pages_in_chinese_hold_no_english_and_fit_the_window(
    dashboard: Dashboard, browser: Browser, paths: list[str]
) -> None:
    english: dict[str, set[str]] = {}
    too_wide = set()
    for path, page in opened(browser, dashboard, paths, locale="zh-CN"):
        too_wide |= {path for width in overflows_px(page) if width > 0}
        for _view in everything_opened(page):
            for text in page.evaluate(VISIBLE_TEXTS):
                foreign = STREAMLITS_OWN.fullmatch(text) or EXAMPLES.fullmatch(text) or text in QUESTIONS
                if english_words(text) - NAMES - set(CODE.findall(path)) and not foreign:
                    english.setdefault(path, set()).add(text)
    assert english == {}
    assert too_wide == set()


@pytest.mark.timeout(300)
def test_pages_in_english_fit_the_window(dashboard: Dashboard, browser: Browser, paths: list[str]) -> None:
    too_wide = set()
    for path, page in opened(browser, dashboard, paths, locale="en-GB"):
        too_wide |= {path for width in overflows_px(page) if width > 0}
    assert too_wide == set()


def opened(
    browser: Browser, dashboard: Dashboard, paths: list[str], *, locale: str
) -> Iterator[tuple[str, Page]]:
    """Each path in one tab of a browser whose owner reads that language."""
    context = browser.new_context(
        viewport={"width": WIDTH_PX, "height": 900}, locale=locale, reduced_motion="reduce"
    )
    page = context.new_page()
    for path in paths:
        page.goto(f"{dashboard.url}/{path}")
        expect(page.get_by_test_id("stMain").get_by_test_id("stVerticalBlock").first).to_be_visible()
        settle(page)
        yield path, page
    context.close()


def overflows_px(page: Page) -> list[int]:
    """By how much the page, its main part and its sidebar are wider than the room that they have."""
    widths: list[int] = page.evaluate(
        "[...document.querySelectorAll('html, [data-testid=stMain], [data-testid=stSidebarUserContent]')]"
        ".map(part => part.scrollWidth - part.clientWidth)"
    )
    return widths


def chosen(page: Page) -> str:
    """The language that the switch shows as chosen."""
    return (
        page.get_by_role("radiogroup", name="Language / 语言").get_by_role("radio", checked=True).inner_text()
    )


def heading(page: Page, text: str) -> None:
    expect(page.get_by_role("heading", name=text, level=1)).to_be_visible()


def test_tabs_have_languages_of_their_own_and_the_choice_is_remembered(
    dashboard: Dashboard, browser: Browser
) -> None:
    context = browser.new_context(locale="en-GB")
    english, chinese = context.new_page(), context.new_page()
    english.goto(f"{dashboard.url}/engines")
    heading(english, "Engines")
    chinese.goto(f"{dashboard.url}/engines?lang=zh")
    heading(chinese, "引擎")
    expect(chinese.locator("html")).to_have_attribute("lang", "zh-CN")

    english.get_by_role("tab", name="Endpoints").click()
    expect(english.get_by_label("Base URL")).to_be_visible()
    heading(english, "Engines")

    # The switch changes this tab alone, and leaves open what is open.
    chinese.get_by_role("radio", name="English").click()
    heading(chinese, "Engines")
    english.get_by_role("radio", name="简体中文").click()
    heading(english, "引擎")
    expect(english.get_by_role("tab", name="服务端点")).to_have_attribute("aria-selected", "true")
    heading(chinese, "Engines")

    # A new tab of this browser has what was chosen last; another browser has its own.
    remembered = context.new_page()
    remembered.goto(f"{dashboard.url}/engines")
    heading(remembered, "引擎")
    assert chosen(remembered) == "简体中文"
    other = browser.new_context(locale="en-GB")
    elsewhere = other.new_page()
    elsewhere.goto(f"{dashboard.url}/engines")
    heading(elsewhere, "Engines")
    other.close()
    context.close()
