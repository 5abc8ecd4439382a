"""The visitor of a browser session: who they are by Streamlit's login and the secrets' `[access]` table.

Also what a page offers them (only the actions that the guard allows), login and logout, and the pages for
those who don't get in.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlencode

import streamlit as st
from streamlit.errors import StreamlitSecretNotFoundError
from streamlit.navigation.page import Page
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.web.server.starlette import starlette_auth_routes

from core.access.guard import Action, acting_as, authorise, current_identity, is_read_only, may
from core.access.identity import GUEST, NOBODY, READER, SYSTEM, AccessPolicy, Identity, Role, without_login
from core.errors import AccessDenied, ConfigError, LMDynoError
from core.i18n import N_, _
from core.settings import Mode, load_settings
from core.ui.shared import resources
from core.ui.shared.browser import keep_cookie
from core.ui.shared.components import escape

VOTING_LINK = "session"
"""The address's parameter with the secret of a session's voting link; it opens that page alone."""
_GUEST_OF = "visitor_guest_of"

T = TypeVar("T")


class Standing(StrEnum):
    """A visitor's access to this dashboard."""

    ADMITTED = "admitted"
    GUEST = "guest"
    """Without a login, behind the voting link of a session that admits guests: its page alone is theirs."""
    LOGGED_OUT = "logged-out"
    EXPIRED = "expired"
    """The login is too old, or somebody ended it in another tab."""
    UNLISTED = "unlisted"
    CLOSED = "closed"
    """Reachable from other machines without a login: nobody gets in."""


_MEDIA_TYPES = {
    "csv": "text/csv",
    "html": "text/html",
    "json": "application/json",
    "parquet": "application/vnd.apache.parquet",
}
"""By the ending of a file's name."""
_WITHOUT_ACCESS = (Standing.LOGGED_OUT, Standing.EXPIRED, Standing.UNLISTED)


@dataclass(frozen=True, slots=True)
class Visitor:
    identity: Identity
    standing: Standing
    address: str = ""
    """The e-mail address or name that a visitor without a role came with."""


def identity() -> Identity:
    """Who acts in this thread, for the guard; threads without a session are the dashboard's own."""
    if get_script_run_ctx(suppress_warning=True) is None:
        return SYSTEM
    return visitor().identity


def visitor() -> Visitor:
    """The visitor of the running session as they stand now. Raises ConfigError for faulty secrets."""
    if load_settings().mode is Mode.REPLAY:
        return Visitor(READER, Standing.ADMITTED)
    by_login = _by_login()
    if by_login.standing in _WITHOUT_ACCESS and _is_guest():
        return Visitor(GUEST, Standing.GUEST)
    return by_login


def _by_login() -> Visitor:
    if not auth_configured():
        open_to = without_login(st.get_option("server.address"), load_settings().open_to_all)
        return Visitor(open_to, Standing.ADMITTED if open_to.role else Standing.CLOSED)
    claims: dict[str, Any] = st.user.to_dict()
    if claims.get("is_logged_in") is not True:
        with suppress(ConfigError):  # whoever logs in is told
            keep_cookies_for(AccessPolicy.read(_table("access")).session)
        return Visitor(NOBODY, Standing.LOGGED_OUT)
    policy = AccessPolicy.read(_table("access"))
    identified = policy.identify(claims, datetime.now(UTC))
    if not identified.login or resources.audit().has_ended(identified.login):
        return Visitor(NOBODY, Standing.EXPIRED)
    if identified.role is None:
        return Visitor(NOBODY, Standing.UNLISTED, str(claims.get("email") or identified.name))
    return Visitor(identified, Standing.ADMITTED)


def _is_guest() -> bool:
    """Whether the address has the voting link of a session that admits guests."""
    link = st.query_params.get(VOTING_LINK, "")
    if not link or st.session_state.get(_GUEST_OF) == link:  # what a session admits never changes
        return bool(link)
    try:
        session = resources.sessions().session_of_link(link)
    except LMDynoError:
        return False  # who has no login is told nothing about the store
    if session is None or not session.plan.guests:
        return False
    st.session_state[_GUEST_OF] = link
    return True


def keep_cookies_for(session: timedelta) -> None:
    """Have browsers keep the login's cookie no longer than a login is good for.

    Streamlit keeps it for 30 days and has no option for it. This is not what ends a login: a cookie that is
    older counts for nothing anyway.
    """
    vars(starlette_auth_routes)["AUTH_COOKIE_MAX_AGE_SECONDS"] = int(session.total_seconds())


def auth_configured() -> bool:
    """Whether the secrets hold an `[auth]` table. Raises ConfigError for secrets that can't be read."""
    return _table("auth") is not None


def _table(name: str) -> object:
    try:
        return st.secrets.to_dict().get(name)
    except StreamlitSecretNotFoundError:
        # Streamlit says the same of a file that is not there and of one that is no TOML: an open dashboard
        # must not come of a typing error.
        if there := [path for path in st.get_option("secrets.files") if Path(path).is_file()]:
            raise ConfigError(
                N_("{file} can't be read", file=Path(there[0]).name),
                hint=N_("Write valid TOML. Until then, nobody can log in."),
                code="secrets",
            ) from None
        return None


def offers(action: Action) -> bool:
    """Whether the visitor may do that; if not, say in place of its controls who may."""
    if may(action):
        return True
    if is_read_only():
        return False
    st.info(_("Only operators can do this. You can see what they started."), icon=":material/lock:")
    return False


def _exporting(target: str, make: Callable[[], T]) -> Callable[[], T]:
    """The function as the audit log knows of it: a download is made later, outside of the session's run."""
    identity = current_identity()

    def made() -> T:
        if identity.login and resources.audit().has_ended(identity.login):
            raise AccessDenied(N_("Your login has expired."), code="logged-out")
        with acting_as(identity):
            authorise(Action.EXPORT, target)
            return make()

    return made


def show_export(
    label: str,
    target: str,
    make: Callable[[], str | bytes],
    *,
    file_name: str,
    key: str | None = None,
    meaning: str | None = None,
) -> None:
    """A button that downloads what `make` makes; the audit log calls it the export of `target`."""
    st.download_button(
        label,
        _exporting(target, make),
        file_name=file_name,
        mime=_MEDIA_TYPES[file_name.rpartition(".")[2]],
        icon=":material/download:",
        key=key,
        help=meaning,
        on_click="ignore",
    )


def is_mine(owner: str | None) -> bool:
    """Whether something belongs to the visitor, as everything does to operators, and they may change it."""
    return may(Action.ANNOTATE, owner=owner)


_WANTED_COOKIE = "lmdyno_wanted"
_WANTED_S = 600
_WATCH_S = 30.0
_FOLLOWED = "account_wanted_followed"
_TO_FORGET = "account_wanted_to_forget"
_ROLES = {Role.VIEWER: N_("Viewer"), Role.OPERATOR: N_("Operator")}


def show_door(who: Visitor, page: Page) -> None:
    """The page for a visitor without access; the page that they asked for is remembered over a login."""
    with st.container(horizontal_alignment="center"):
        st.title("LMDyno", anchor=False, width="content")
        match who.standing:
            case Standing.UNLISTED:
                st.markdown(
                    _("{address} has no access to this dashboard.", address=f"**{escape(who.address)}**"),
                    width="content",
                )
                st.caption(_("Ask the operator to add you, or log in with another account."), width="content")
                st.button(_("Log out"), icon=":material/logout:", on_click=st.logout)
            case Standing.CLOSED:
                st.markdown(
                    _("This dashboard can be reached from other machines, but it has no login."),
                    width="content",
                )
                st.caption(
                    _(
                        "The operator must add [auth] and [access] to the secrets file, or make the "
                        "dashboard available only on this machine."
                    ),
                    width="content",
                )
            case Standing.EXPIRED:
                st.markdown(_("Your login has expired. To continue, log in again."), width="content")
                _login_button(page)
            case _:
                st.markdown(_("Log in to see this dashboard."), width="content")
                _login_button(page)


def show_account() -> None:
    """The account and the logout button; nothing where there are no accounts."""
    if st.session_state.pop(_TO_FORGET, False):
        keep_cookie(_WANTED_COOKIE, "", for_s=0)
    account = current_identity()
    if not account.login or account.role is None:
        return
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        role = _(_ROLES[account.role])
        st.caption(f":material/account_circle: {escape(account.name)} · {role}", width="content")
        st.button(
            _("Log out"), icon=":material/logout:", type="tertiary", key="account_log_out", on_click=_log_out
        )


def note_login() -> None:
    """Have the audit log tell that somebody logged in, once a login."""
    login = current_identity().login
    if login and resources.audit().begin_login(login):
        authorise(Action.LOG_IN, login)


def leave_when_expired() -> None:
    """Have the tab of a login show the door once that has ended, even if nobody does anything there.

    What a page shows of engines and memory would go on in it.
    """
    if current_identity().login:
        st.fragment(_leave_if_expired, run_every=_WATCH_S)()


def _leave_if_expired() -> None:
    if visitor().standing is not Standing.ADMITTED:
        st.rerun()


def follow_wanted(pages: list[Page], opened: Page) -> None:
    """Once a session: go to the page that somebody wanted to see when they were asked to log in.

    The provider leads back to the start page. Whoever opened another page since wants that one.
    """
    if st.session_state.get(_FOLLOWED):
        return
    st.session_state[_FOLLOWED] = True
    address = st.context.cookies.to_dict().get(_WANTED_COOKIE)
    if not address:
        return
    st.session_state[_TO_FORGET] = True
    if opened.url_path:
        return
    path, _query, query = unquote(address).partition("?")
    for page in pages:
        if page.url_path == path:
            st.switch_page(page, query_params=dict(parse_qsl(query)))


def _login_button(page: Page) -> None:
    query = urlencode([(name, value) for name in st.query_params for value in st.query_params.get_all(name)])
    if page.url_path or query:
        keep_cookie(_WANTED_COOKIE, quote(f"{page.url_path}?{query}", safe=""), for_s=_WANTED_S)
    st.button(_("Log in"), type="primary", icon=":material/login:", on_click=st.login)


def _log_out() -> None:
    login = current_identity().login
    if login:  # it may have ended in another tab
        authorise(Action.LOG_OUT, login)
        resources.audit().end_login(login)
    st.logout()
