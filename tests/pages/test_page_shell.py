from core.errors import ConfigError
from core.ui.shared import resources

AUTH = {"redirect_uri": "http://localhost:8501/oauth2callback", "client_id": "lmdyno"}


def logged_out(app):
    app.secrets["auth"] = AUTH
    app.user["is_logged_in"] = False
    return app.run()


def test_without_auth_in_the_secrets_everybody_may_enter(app):
    assert len(app.chat_input) == 1


def test_with_auth_nobody_sees_a_page_before_logging_in(new_app):
    app = logged_out(new_app())
    assert [button.label for button in app.button] == ["Log in"]
    assert len(app.chat_input) == 0
    assert len(app.sidebar.children) == 0


def test_a_page_that_is_run_without_the_router_goes_through_the_login_too(new_app):
    app = logged_out(new_app().switch_page("pages/chat.py"))
    assert [button.label for button in app.button] == ["Log in"]
    assert len(app.chat_input) == 0


def test_who_logged_in_sees_the_page(new_app):
    app = new_app()
    app.secrets["auth"] = AUTH
    app.user["is_logged_in"] = True
    assert len(app.run().chat_input) == 1


def test_a_page_that_is_run_without_the_router_gets_the_frame(new_app):
    app = new_app().switch_page("pages/chat.py").run()
    assert len(app.chat_input) == 1
    assert any("endpoint" in markdown.value for markdown in app.sidebar.markdown)


def test_a_faulty_lanes_file_is_one_clear_page(new_app, monkeypatch):
    def broken():
        raise ConfigError("lanes.toml, line 3: no such engine", hint="Allowed: transformers.")

    monkeypatch.setattr(resources, "lanes", broken)
    app = new_app().run()
    assert not app.exception
    assert "line 3" in app.error[0].value
    assert "transformers" in app.error[0].value
    assert len(app.chat_input) == 0
