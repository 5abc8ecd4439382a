"""The language of a browser session: where it comes from, how it is switched and what is remembered."""

import pytest
from streamlit.runtime.context import StreamlitCookies
from streamlit.testing.v1 import AppTest

from core import i18n

SWITCH = "language_switch"


def language_of(app: AppTest) -> str:
    assert not app.exception
    return app.session_state["language"]


def scripts(app: AppTest) -> list[str]:
    return [element.proto.body for element in app.get("html") if "<script>" in element.proto.body]


def router() -> None:
    """What the router does of it; AppTest runs the whole router only once."""
    from core.ui.shared import browser

    browser.settle_language()
    browser.show_language_switch()


@pytest.fixture
def new_session():
    """Opens a browser session; `query` is the address's query."""

    def open_session(**query) -> AppTest:
        app = AppTest.from_function(router)
        for key, value in query.items():
            app.query_params[key] = value
        return app

    return open_session


@pytest.fixture
def cookie(monkeypatch):
    """Sets the browser's cookie."""

    def set_cookie(value: str) -> None:
        cookies = StreamlitCookies({"lmdyno_language": value})
        monkeypatch.setattr("streamlit.runtime.context.ContextProxy.cookies", cookies)

    return set_cookie


def test_the_language_is_english_unless_the_browser_says_otherwise(new_session):
    app = new_session().run()
    assert language_of(app) == "en"
    assert not scripts(app)


@pytest.mark.parametrize(("locale", "language"), [("zh-CN", "zh_CN"), ("zh-TW", "zh_CN"), ("de-DE", "en")])
def test_the_browsers_language_is_taken(new_session, locale, language):
    app = new_session()
    app.context["locale"] = locale
    assert language_of(app.run()) == language


def test_the_language_of_the_browser_is_named_and_not_remembered(new_session):
    app = new_session()
    app.context["locale"] = "zh-CN"
    (script,) = scripts(app.run())
    assert "lang = 'zh-CN'" in script
    assert "cookie" not in script
    assert not scripts(app.run())


def test_the_address_names_the_language_and_the_browser_remembers_it(new_session):
    app = new_session(lang="zh").run()
    assert language_of(app) == "zh_CN"
    assert "lmdyno_language=zh-CN" in scripts(app)[0]


def test_a_remembered_language_wins_over_the_browsers(new_session, cookie):
    cookie("zh-CN")
    app = new_session()
    app.context["locale"] = "en-GB"
    assert language_of(app.run()) == "zh_CN"


def test_a_cookie_that_is_no_language_is_ignored(new_session, cookie):
    cookie("'; alert(1); '")
    app = new_session().run()
    assert language_of(app) == "en"
    assert not scripts(app)


def test_the_switch_wins_over_the_address_and_corrects_it(new_session):
    app = new_session(lang="zh").run()
    app.segmented_control(key=SWITCH).set_value(i18n.Language.ENGLISH).run()
    assert language_of(app) == "en"
    assert app.query_params["lang"] == "en"
    assert "lmdyno_language=en" in scripts(app)[0]
    assert language_of(app.run()) == "en"


def test_sessions_have_languages_of_their_own(new_session):
    first, second = new_session(lang="zh").run(), new_session().run()
    assert (language_of(first), language_of(second)) == ("zh_CN", "en")
    assert (language_of(first.run()), language_of(second.run())) == ("zh_CN", "en")


def test_the_router_settles_the_language(new_app):
    app = new_app(lang="zh").run()
    assert language_of(app) == "zh_CN"
    assert app.sidebar.segmented_control(key=SWITCH).value == "zh_CN"


def tabs_and_switch() -> None:
    """A page with tabs in the language of the session."""
    from core.i18n import _
    from core.ui.shared import browser
    from core.ui.shared.components import show_tabs

    browser.settle_language()
    browser.show_language_switch()
    for tab, title in zip(show_tabs([_("Engines"), _("Endpoints")], key="section"), "ab", strict=True):
        if tab.open:
            tab.write(title)


def test_the_open_tab_stays_open_when_the_language_changes():
    app = AppTest.from_function(tabs_and_switch)
    app.session_state["section"] = "Endpoints"
    app.run()
    assert [text.value for text in app.markdown] == ["b"]
    app.segmented_control(key=SWITCH).set_value(i18n.Language.CHINESE).run()
    assert [text.value for text in app.markdown] == ["b"]
    assert [tab.label for tab in app.tabs] == ["引擎", "服务端点"]
    assert [text.value for text in app.run().markdown] == ["b"]
