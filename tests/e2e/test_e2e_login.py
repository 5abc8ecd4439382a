"""The whole way through a real OpenID provider: login, roles, privacy, logout, and logins that have ended."""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import aiohttp
import oidc_provider_mock
import pytest
from e2e_dashboard import Chat, Dashboard, pick_lanes, settle
from e2e_voting import LEAST_VIEW_MS, Voter
from oidc_provider_mock import User
from playwright.sync_api import expect
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.web.server.starlette.starlette_app_utils import create_signed_value

from core.store.sessions import Sessions
from tests.unit.sessions.session_samples import answers, open_session, plan

COOKIE_SECRET = "a-secret-for-the-tests-only-0123456789"
SECRETS = """
[auth]
redirect_uri = "{url}/oauth2callback"
cookie_secret = "{cookie_secret}"
client_id = "lmdyno"
client_secret = "not-a-secret"
server_metadata_url = "http://localhost:{provider}/.well-known/openid-configuration"

[access]
operators = ["ada@example.com"]
viewers = ["@example.org", {{ claim = "groups", value = "lab" }}]
"""
PEOPLE = (
    User(sub="ada", claims={"email": "ada@example.com", "name": "Ada"}),
    User(sub="bob", claims={"email": "bob@example.org", "name": "Bob"}),
    User(sub="eve", claims={"email": "eve@elsewhere.example", "name": "Eve", "groups": ["lab"]}),
    User(sub="stranger", claims={"email": "stranger@anywhere.example", "name": "Stranger"}),
    User(sub="liar", claims={"email": "ada@example.com", "email_verified": False, "name": "Liar"}),
)


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory, lanes):
    home = tmp_path_factory.mktemp("home")
    (home / "lanes.toml").write_text(lanes, "utf-8")
    secrets = home / "secrets.toml"
    environ = {
        "LMDYNO_HOME": str(home),
        "LMDYNO_LANES": str(home / "lanes.toml"),
        "STREAMLIT_SECRETS_FILES": str(secrets),
    }
    running = Dashboard(home, environ)
    with oidc_provider_mock.run_server_in_thread(user_claims=PEOPLE) as provider:
        secrets.write_text(
            SECRETS.format(url=running.url, provider=provider.server_port, cookie_secret=COOKIE_SECRET)
        )
        running.start()
        try:
            yield running
        finally:
            running.end()


@pytest.fixture
def browse(browser, dashboard):
    """browse() → a browser of its own, on the dashboard."""
    with ExitStack() as stack:

        def open_browser():
            context = browser.new_context(viewport={"width": 1400, "height": 900}, reduced_motion="reduce")
            stack.callback(context.close)
            context.set_default_timeout(30_000)
            expect.set_options(timeout=30_000)
            return context.new_page()

        yield open_browser


def log_in(page, who, url):
    """From wherever the address leads to, through the provider, and back."""
    page.goto(url)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("button", name=who, exact=True).click()
    page.wait_for_url(f"{url.split('/', 3)[0]}//{url.split('/', 3)[2]}/**")


def account(page, name, role):
    return page.get_by_test_id("stSidebar").get_by_text(f"{name} · {role}")


def test_an_operator_logs_in_and_comes_to_the_wanted_page(dashboard, browse):
    page = browse()
    log_in(page, "ada", f"{dashboard.url}/engines?from=a-link")
    expect(account(page, "Ada", "Operator")).to_be_visible()
    page.wait_for_url(f"{dashboard.url}/engines?from=a-link")
    page.get_by_role("tab", name="Endpoints").click()
    expect(page.get_by_label("Base URL")).to_be_visible()
    page.get_by_role("tab", name="Audit log").click()
    expect(page.get_by_role("tabpanel").get_by_test_id("stDataFrame")).to_be_visible()
    page.goto(dashboard.url)  # wanted once, not for ever
    expect(account(page, "Ada", "Operator")).to_be_visible()
    settle(page)
    assert page.url.rstrip("/") == dashboard.url


@pytest.mark.parametrize("who", ["stranger", "liar"])
def test_who_is_not_listed_gets_no_further(dashboard, browse, who):
    page = browse()
    log_in(page, who, f"{dashboard.url}/history")
    expect(page.get_by_text("has no access to this dashboard")).to_be_visible()
    for path in ("", "history", "engines"):
        page.goto(f"{dashboard.url}/{path}")
        expect(page.get_by_text("has no access to this dashboard")).to_be_visible()
        settle(page)
        expect(page.get_by_text("quick")).to_have_count(0)
        expect(page.get_by_test_id("stChatInputTextArea")).to_have_count(0)


def test_a_viewer_is_offered_nothing_for_operators(dashboard, browse):
    page = browse()
    log_in(page, "eve", f"{dashboard.url}/benchmark")
    expect(account(page, "Eve", "Viewer")).to_be_visible()
    expect(page.get_by_text("Only operators can do this")).to_be_visible()
    expect(page.get_by_role("button", name="Start")).to_have_count(0)
    page.goto(f"{dashboard.url}/engines")
    expect(page.get_by_role("tab", name="Endpoints")).to_be_visible()
    settle(page)
    expect(page.get_by_role("tab", name="Audit log")).to_have_count(0)


def test_what_is_asked_is_private_but_for_a_link_and_says_who_stopped_it(dashboard, browse):
    bob, eve, ada = browse(), browse(), browse()
    for page, who in (
        (eve, "eve"),
        (ada, "ada"),
        (bob, "bob"),
    ):  # before the question, whose answer ends in 25 s
        log_in(page, who, f"{dashboard.url}/chat")
    chat = Chat(bob, dashboard)
    pick_lanes(bob, "steady")
    chat.ask("A question of Bob's")
    expect(chat.answer("steady")).to_contain_text("word3")
    bob.wait_for_url("**/chat?conversation=*")

    ada.goto(bob.url)
    expect(question(ada)).to_be_visible()
    Chat(ada, dashboard).stop.click()
    expect(bob.get_by_text("stopped by Ada").first).to_be_visible()
    expect(ada.get_by_text("stopped by you").first).to_be_visible()

    chat.ask("Another question")
    eve.goto(f"{dashboard.url}/chat")
    settle(eve)
    eve.get_by_text("Recent conversations").click()
    settle(eve)
    expect(eve.get_by_text("A question of Bob's")).to_have_count(0)
    eve.goto(bob.url)
    expect(question(eve)).to_be_visible()
    expect(Chat(eve, dashboard).stop).to_have_count(0)


def question(page):
    return page.get_by_test_id("stMain").get_by_text("A question of Bob's").first


def test_after_the_logout_neither_another_tab_nor_the_old_cookies_open_anything(dashboard, browse):
    page = browse()
    log_in(page, "bob", f"{dashboard.url}/chat")
    expect(account(page, "Bob", "Viewer")).to_be_visible()
    cookies = page.context.cookies()
    other = page.context.new_page()
    other.goto(f"{dashboard.url}/chat")
    expect(account(other, "Bob", "Viewer")).to_be_visible()
    settle(other)

    page.get_by_role("button", name="Log out").click()
    page.get_by_role("button", name="End session").click()
    expect(page.get_by_role("button", name="Log in")).to_be_visible()

    Chat(other, dashboard).input.fill("Still there?")
    Chat(other, dashboard).input.press("Enter")
    expect(other.get_by_text("Your login has expired")).to_be_visible()
    expect(other.get_by_test_id("stChatInputTextArea")).to_have_count(0)

    thief = browse()
    thief.context.add_cookies(cookies)
    thief.goto(dashboard.url)
    expect(thief.get_by_text("Your login has expired")).to_be_visible()


@pytest.mark.parametrize(
    ("age_h", "secret", "text"),
    [
        (1, COOKIE_SECRET, "Ada · Operator"),
        (13, COOKIE_SECRET, "Your login has expired"),
        (1, "another secret", "Log in to"),
    ],
)
def test_a_login_is_good_for_twelve_hours_and_can_not_be_forged(dashboard, browse, age_h, secret, text):
    page = browse()
    page.context.add_cookies([login_cookie(dashboard, age_h * 3600, secret)])
    page.goto(dashboard.url)
    expect(page.get_by_text(text).first).to_be_visible()


def test_a_tab_that_nobody_touches_shows_the_door_when_its_login_has_ended(dashboard, browse):
    page = browse()
    page.context.add_cookies([login_cookie(dashboard, 12 * 3600 - 15, COOKIE_SECRET)])
    page.goto(f"{dashboard.url}/history")
    expect(account(page, "Ada", "Operator")).to_be_visible()
    expect(page.get_by_text("Your login has expired")).to_be_visible(timeout=90_000)
    expect(account(page, "Ada", "Operator")).to_have_count(0)


def login_cookie(dashboard, age_s, secret):
    """Of somebody who logged in so long ago."""
    claims = {
        "sub": "ada",
        "email": "ada@example.com",
        "name": "Ada",
        "iat": int(time.time()) - age_s,
        "origin": dashboard.url,
        "is_logged_in": True,
        "provider": "default",
    }
    value = create_signed_value(secret, "_streamlit_user", json.dumps(claims)).decode()
    return {"name": "_streamlit_user", "value": value, "url": dashboard.url}


def beside_the_browser(coroutine):
    """Playwright has an event loop in this thread already."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


async def answer_to_a_socket(dashboard, page):
    """All that the server sends to a websocket without a cookie that asks for that page."""
    message = BackMsg()
    message.rerun_script.page_name = page
    received = []
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(
            f"{dashboard.url}/_stcore/stream", protocols=("streamlit",), origin=dashboard.url
        ) as socket,
    ):
        await socket.send_bytes(message.SerializeToString())
        async for frame in socket:
            received.append(frame.data)
            if ForwardMsg.FromString(frame.data).WhichOneof("type") == "script_finished":
                break
    return b"".join(received)


@pytest.mark.parametrize("page", ["", "chat", "engines", "memory", "history", "vote"])
def test_a_websocket_without_a_login_is_told_nothing(dashboard, page):
    received = beside_the_browser(answer_to_a_socket(dashboard, page))
    assert b"Log in" in received
    assert not any(
        word in received for word in (b"quick", b"steady", b"chat_input", str(dashboard.home).encode())
    )


@pytest.mark.parametrize(
    ("host", "origin"),
    [("evil.example", "http://evil.example"), (None, "http://evil.example"), ("evil.example", None)],
)
def test_another_site_can_not_open_a_websocket(dashboard, host, origin):
    """As a page does whose name was made to point to this machine (DNS rebinding)."""

    async def connect():
        headers = {"Host": host} if host else {}
        async with aiohttp.ClientSession() as http:
            await http.ws_connect(
                f"{dashboard.url}/_stcore/stream",
                protocols=("streamlit",),
                origin=origin or dashboard.url,
                headers=headers,
            )

    with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
        beside_the_browser(connect())
    assert refusal.value.status == 403


def test_a_guest_votes_by_the_link_and_sees_nothing_else(dashboard, browser):
    given = plan("quick", "steady", prompts=2, guests=True, deploy_votes=0)
    with closing(Sessions(f"sqlite:///{dashboard.home / 'lmdyno.db'}")) as sessions:
        session = sessions.create(open_session(given, link="for-guests"))
        sessions.save_answers(session.id, answers(given))
    link = f"{dashboard.url}/?session={session.link}"
    guest = Voter(browser, link, "Gil")
    try:
        guest.join()
        guest.expect_done(0, 2)
        guest.page.wait_for_timeout(LEAST_VIEW_MS)
        guest.page.keyboard.press("1")
        guest.expect_done(1, 2)
        guest.page.goto(f"{dashboard.url}/engines?session={session.link}")
        expect(guest.page.get_by_label("Your name or a nickname")).to_be_visible()
        expect(guest.page.get_by_text("quick")).to_have_count(0)
        for path in ("", "engines", "history", "sessions", f"sessions?id={session.id}", "?session=another"):
            guest.page.goto(f"{dashboard.url}/{path}")
            expect(guest.page.get_by_role("button", name="Log in")).to_be_visible()
    finally:
        guest.close()


def test_everything_in_the_home_folder_is_its_owners_alone(dashboard):
    open_to_others = [
        str(path)
        for path in (dashboard.home, *dashboard.home.rglob("*"))
        if not path.is_symlink() and path.lstat().st_mode & 0o077
    ]
    assert open_to_others == []
    assert (dashboard.home / "lmdyno.db").exists()
