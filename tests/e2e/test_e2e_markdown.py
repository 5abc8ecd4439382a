"""What models write, drawn in a real browser: nothing is fetched, and nothing is changed."""

from itertools import product
from urllib.parse import urlsplit

import pytest
from e2e_dashboard import started_markdown_page
from markdown_spellings import AROUND, FETCHES, FOREIGN, URL
from playwright.sync_api import expect

AS_WRITTEN = [
    ":red[x] and :blue-badge[y]",
    "a <- b, c -> d, e <-> f, g -- h",
    "1 <= 2 and 3 >= 2, 4 ~= 4",
    ":smile: :+1: :streamlit: :material/home: :material_home:",
    "at 10:30:45 and a:b:c[d]",
    "--",
    "http://h/a_b_c and www.h_i.org/a_b, me_too@h.org",
    "<b>bold?</b> &amp; <br>",
    "5 * 3 * 2 = $30 or $40",
    "![x](http://h/y.png)",
    "[^1] x^2^ H~2~O ==x==",
    "a | b",
]
"""Plain words that must come out character by character, where Markdown has no meaning for them."""


@pytest.fixture(scope="module")
def texts():
    spellings = [around.replace("X", fetch) for fetch, around in product(FETCHES, AROUND)]
    spellings = [
        text.replace("URL", URL).replace("HOST", FOREIGN).replace("NUMBER", str(number))
        for number, text in enumerate(spellings)
    ]
    third = -(-len(spellings) // 3)
    batches = {str(n): spellings[n * third : (n + 1) * third] for n in range(3)}
    return batches | {"control": [FETCHES[0].replace("URL", URL)], "plain": AS_WRITTEN}


@pytest.fixture(scope="module")
def page_url(tmp_path_factory, texts):
    with started_markdown_page(tmp_path_factory.mktemp("texts"), texts) as url:
        yield url


@pytest.fixture
def foreign(browser):
    """Opens a batch in a tab of its own; returns the tab and what it asked of foreign hosts."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    asked: list[str] = []

    def look(route):
        if urlsplit(route.request.url).hostname == "127.0.0.1" or route.request.url.startswith("data:"):
            route.continue_()
        else:
            asked.append(route.request.url)
            route.abort()

    context.route("**/*", look)

    def open_batch(url):
        page = context.new_page()
        page.goto(url)
        expect(page.get_by_text("The end.", exact=True)).to_be_visible(timeout=60_000)
        page.wait_for_load_state("networkidle")
        return page, asked

    yield open_batch
    context.close()


def test_the_browser_would_fetch_an_image_of_unguarded_markdown(foreign, page_url):
    _, asked = foreign(f"{page_url}/?batch=control&as=is")
    assert [urlsplit(url).hostname for url in asked] == [FOREIGN]


@pytest.mark.parametrize("batch", ["0", "1", "2"])
def test_no_spelling_makes_the_browser_fetch_anything_foreign(foreign, page_url, texts, batch):
    page, asked = foreign(f"{page_url}/?batch={batch}")
    assert len(texts[batch]) > 300
    assert asked == []
    assert page.locator("iframe, object, embed, video, audio, svg image").count() == 0


def test_text_is_shown_as_it_was_written(foreign, page_url):
    page, _ = foreign(f"{page_url}/?batch=plain")
    for number, text in enumerate(AS_WRITTEN):
        shown = page.locator(f".st-key-text_{number}")
        expected = text.replace("&amp;", "&")  # an entity means the same everywhere
        expect(shown).to_have_text(expected, use_inner_text=True)
