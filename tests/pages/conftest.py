from types import SimpleNamespace

import page_fakes
import pytest
from streamlit.testing.v1 import AppTest

from core.access.identity import Identity, Role, Visibility
from core.settings import PROJECT_ROOT
from core.ui.chat import answers
from core.ui.shared import resources, shell, visitor
from core.ui.shared.visitor import Standing, Visitor


def _no_real_ones():
    raise AssertionError("the page asked for the real resources of a dashboard")


@pytest.fixture
def world(monkeypatch):
    """The dashboard's resources as stand-ins: `manager`, `meter`, `store`."""
    store = page_fakes.FakeStore()
    things = SimpleNamespace(
        manager=page_fakes.FakeManager(),
        meter=page_fakes.FakeMeter(store),
        store=store,
        unfit={},
        reachability=page_fakes.FakeReachability(),
    )
    monkeypatch.setattr(resources, "resources", _no_real_ones)
    monkeypatch.setattr(resources, "manager", lambda: things.manager)
    monkeypatch.setattr(resources, "meter", lambda: things.meter)
    monkeypatch.setattr(resources, "store", lambda: things.store)
    monkeypatch.setattr(resources, "reachability", lambda: things.reachability)
    monkeypatch.setattr(resources, "history", lambda: SimpleNamespace(find=lambda ids: ()))
    monkeypatch.setattr(resources, "unfit", lambda lane: things.unfit.get(lane.name))
    monkeypatch.setattr(resources, "lanes", lambda: page_fakes.BOOK)
    monkeypatch.setattr(answers, "_YIELD_S", 0.005)  # fakes answer at once
    return things


@pytest.fixture
def viewer(monkeypatch):
    """The visitor is a viewer with an account."""
    bob = Identity(id="bob@example.com", name="Bob", role=Role.VIEWER, sees=Visibility.LINK, login="of-bob")
    admitted = Visitor(bob, Standing.ADMITTED)
    for module in (shell, visitor):
        monkeypatch.setattr(module, "visitor", lambda: admitted)
    audit = SimpleNamespace(has_ended=lambda login: False, begin_login=lambda login: False)
    monkeypatch.setattr(resources, "audit", lambda: audit)
    return bob


@pytest.fixture
def new_app(world):
    """Opens a browser session, on the chat unless it is told; `query` is the address's query."""

    def open_app(*, page: str | None = "pages/chat.py", **query) -> AppTest:
        app = AppTest.from_file(str(PROJECT_ROOT / "streamlit_app.py"), default_timeout=30)
        for key, value in query.items():
            app.query_params[key] = value
        if page:
            app.switch_page(page)
        return app

    return open_app


@pytest.fixture
def app(new_app):
    return new_app().run()
