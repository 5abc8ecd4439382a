import errno
from types import SimpleNamespace

import pytest
from starlette.responses import Response

from core.access import guard
from core.access.guard import Action
from core.access.identity import SYSTEM, Role, login_of
from core.domain.turns import utc_now
from core.errors import ConfigError
from core.settings import PROJECT_ROOT
from core.ui.chat import page as chat_page
from core.ui.shared import resources, visitor

AUTH = {"redirect_uri": "http://localhost:8501/oauth2callback", "client_id": "lmdyno"}
ACCESS = {"operators": ["ada@example.com"], "viewers": ["@example.com"]}


PAGE_FILES = sorted(
    path.relative_to(PROJECT_ROOT).as_posix() for path in (PROJECT_ROOT / "pages").glob("*.py")
)


class FakeAudit:
    """The audit log and the ended logins of a dashboard."""

    def __init__(self):
        self.entries = []
        self.ended = set()

    def begin_login(self, login):
        return False

    def end_login(self, login):
        self.ended.add(login)

    def has_ended(self, login):
        return login in self.ended


@pytest.fixture
def audit(monkeypatch):
    audit = FakeAudit()
    monkeypatch.setattr(resources, "audit", lambda: audit)
    guard.record_with(audit.entries.append)
    yield audit
    guard.record_with(None)


@pytest.fixture
def open_as(new_app, audit):
    """Opens the dashboard with a login; without an address nobody is logged in."""

    def open_app(email=None, access=ACCESS, age_s=60, page="pages/chat.py", **claims):
        app = new_app(page=page)
        app.secrets["auth"] = AUTH
        if access is not None:
            app.secrets["access"] = access
        app.user["is_logged_in"] = email is not None
        if email:
            app.user.update({"sub": email, "email": email, "iat": int(utc_now().timestamp()) - age_s})
        app.user.update(claims)
        return app.run()

    return open_app


def labels(app):
    return [button.label for button in app.button]


def shown(app):
    return " ".join(each.value for each in (*app.markdown, *app.caption))


def is_closed(app):
    return not app.exception and len(app.chat_input) == 0 and len(app.sidebar.children) == 0


def test_without_a_login_whoever_is_at_this_machine_may_do_everything(app):
    assert len(app.chat_input) == 1
    assert "Log out" not in labels(app)


def test_a_page_that_can_open_no_more_files_says_so(new_app, monkeypatch):
    def run_out(_page):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(chat_page, "show", run_out)
    app = new_app().run()
    assert not app.exception
    assert "Too many files and connections" in " ".join(error.value for error in app.error)


@pytest.mark.parametrize("page", [None, *PAGE_FILES])
def test_with_a_login_nobody_sees_a_page_before(open_as, page):
    app = open_as(page=page)
    assert is_closed(app)
    assert labels(app) == ["Log in"]


@pytest.mark.parametrize("access", [None, {}, {"operators": [], "viewers": []}])
def test_nobody_gets_in_who_is_not_listed(open_as, access):
    app = open_as("ada@example.com", access=access)
    assert is_closed(app)
    assert labels(app) == ["Log out"]
    assert "**ada@example.com** has no access to this dashboard." in shown(app)


@pytest.mark.parametrize("page", ["pages/chat.py", "pages/history.py"])
def test_a_stranger_gets_in_by_no_page(open_as, page):
    assert is_closed(open_as("stranger@anywhere.example", page=page))


def test_an_address_that_is_not_verified_opens_nothing(open_as):
    assert is_closed(open_as("ada@example.com", email_verified=False))


@pytest.mark.parametrize(("email", "role"), [("ada@example.com", "Operator"), ("bob@example.com", "Viewer")])
def test_who_is_listed_sees_the_page_and_their_role(open_as, email, role):
    app = open_as(email, name="A Person")
    assert len(app.chat_input) == 1
    assert f"A Person · {role}" in shown(app.sidebar)


def test_a_login_of_yesterday_has_ended(open_as):
    app = open_as("ada@example.com", age_s=13 * 3600)
    assert is_closed(app)
    assert labels(app) == ["Log in"]
    assert "Your login has expired" in shown(app)


def test_logging_out_ends_the_login_in_every_tab(open_as, audit):
    issued_at = int(utc_now().timestamp())
    first, other = (open_as("bob@example.com", iat=issued_at) for _ in range(2))
    first.button(key="account_log_out").click().run()
    assert is_closed(first)
    assert [(entry.who, entry.action) for entry in audit.entries] == [("bob@example.com", Action.LOG_OUT)]
    other.run()
    assert is_closed(other)
    assert "Your login has expired" in shown(other)


def test_an_action_in_a_tab_whose_login_has_ended_does_nothing(open_as, audit, world):
    app = open_as("ada@example.com")
    audit.ended.add(login_of(app.user))
    app.chat_input[0].set_value("Hello").run()
    assert is_closed(app)
    assert world.meter.plans == []


def test_a_rights_table_with_a_mistake_lets_nobody_in(open_as):
    app = open_as("ada@example.com", access={"operators": "ada@example.com"})
    assert len(app.chat_input) == 0
    assert "wrong at operators" in app.error[0].value


def test_secrets_that_can_not_be_read_open_nothing(new_app, monkeypatch, tmp_path):
    broken = tmp_path / "secrets.toml"
    broken.write_text("[auth\n")
    real = visitor.st.get_option
    monkeypatch.setattr(
        visitor.st, "get_option", lambda name: [str(broken)] if name == "secrets.files" else real(name)
    )
    app = new_app().run()
    assert len(app.chat_input) == 0
    assert "secrets.toml can't be read" in app.error[0].value


@pytest.mark.parametrize("address", [None, "0.0.0.0", "192.168.1.5", "lab.example.com", "::"])
def test_a_dashboard_that_others_can_reach_is_closed_without_a_login(new_app, monkeypatch, address):
    real = visitor.st.get_option
    monkeypatch.setattr(
        visitor.st, "get_option", lambda name: address if name == "server.address" else real(name)
    )
    app = new_app().run()
    assert is_closed(app)
    assert "it has no login" in shown(app)
    monkeypatch.setenv("LMDYNO_OPEN_TO_ALL", "viewer")
    assert len(app.run().chat_input) == 1


def test_threads_without_a_session_are_the_dashboards_own(app):
    assert guard.current_identity() == SYSTEM
    assert guard.current_identity().role is Role.OPERATOR


@pytest.mark.parametrize("page", [file for file in PAGE_FILES if file != "pages/vote.py"])
def test_a_page_that_is_run_without_the_router_gets_the_frame(new_app, page):
    """Streamlit runs a page so if it is the first one that anybody opens after the server's start."""
    app = new_app(page=page).run()
    assert any("remote" in markdown.value for markdown in app.sidebar.markdown)
    assert len(app.chat_input) == (1 if page in ("pages/chat.py", "pages/vision.py") else 0)


def test_the_wanted_page_survives_the_login(open_as, monkeypatch):
    kept = {"lmdyno_wanted": "chat%3Fconversation%3Dabc"}
    cookies = SimpleNamespace(to_dict=lambda: kept, get=kept.get)
    app = open_as(page=None)
    monkeypatch.setattr("streamlit.runtime.context.ContextProxy.cookies", cookies)
    app.user.update(
        {"is_logged_in": True, "sub": "b", "email": "bob@example.com", "iat": int(utc_now().timestamp())}
    )
    app.run()
    assert app.query_params["conversation"] == "abc"
    assert len(app.chat_input) == 1


@pytest.mark.parametrize(("opened", "switched"), [("", ["benchmark"]), ("engines", []), ("benchmark", [])])
def test_the_wanted_page_is_followed_from_the_start_page_only(monkeypatch, opened, switched):
    went_to = []
    streamlit = SimpleNamespace(
        session_state={},
        context=SimpleNamespace(cookies=SimpleNamespace(to_dict=lambda: {"lmdyno_wanted": "benchmark%3F"})),
        switch_page=lambda page, query_params: went_to.append(page.url_path),
    )
    monkeypatch.setattr(visitor, "st", streamlit)
    pages = {path: SimpleNamespace(url_path=path) for path in ("", "benchmark", "engines")}
    visitor.follow_wanted(list(pages.values()), pages[opened])
    assert went_to == switched


def test_a_faulty_lanes_file_is_one_clear_page(new_app, monkeypatch):
    def broken():
        raise ConfigError("lanes.toml, line 3: no such engine", hint="Allowed: transformers.")

    monkeypatch.setattr(resources, "lanes", broken)
    app = new_app().run()
    assert not app.exception
    assert "line 3" in app.error[0].value
    assert "transformers" in app.error[0].value
    assert len(app.chat_input) == 0


@pytest.mark.parametrize(
    "name", ["overview", "chat", "vision", "benchmark", "quality", "engines", "memory", "history"]
)
def test_every_page_has_its_name_as_its_heading(new_app, name):
    app = new_app(page=f"pages/{name}.py").run()
    assert [title.value for title in app.title] == [name.capitalize()]


def test_browsers_keep_the_login_cookie_as_long_as_a_login_is_good_for(open_as, monkeypatch):
    routes = visitor.starlette_auth_routes
    monkeypatch.setattr(routes, "get_cookie_secret", lambda: "secret")
    open_as(None, access={**ACCESS, "session_hours": 2})  # the cookie is set when somebody logs in
    response = Response()
    routes._set_single_cookie(response, "_streamlit_user", "{}")
    assert "max-age=7200" in response.headers["set-cookie"].lower()
