"""Login, logout, and the pages for those who don't get in."""

from urllib.parse import parse_qsl, quote, unquote, urlencode

import streamlit as st
from streamlit.navigation.page import Page

from core.access.guard import Action, authorise, current_identity
from core.access.identity import Role
from core.i18n import N_, _
from core.ui.shared import resources
from core.ui.shared.browser import keep_cookie
from core.ui.shared.components import escape
from core.ui.shared.visitor import Standing, Visitor

_WANTED_COOKIE = "lmdyno_wanted"
_WANTED_S = 600
_FOLLOWED = "account_wanted_followed"
_TO_FORGET = "account_wanted_to_forget"
_ROLES = {Role.VIEWER: N_("Viewer"), Role.OPERATOR: N_("Operator")}


def show_door(visitor: Visitor, page: Page) -> None:
    """The page for a visitor without access; the page that they asked for is remembered over a login."""
    with st.container(horizontal_alignment="center"):
        st.title("LMDyno", anchor=False, width="content")
        match visitor.standing:
            case Standing.UNLISTED:
                st.markdown(
                    _("{address} has no access to this dashboard.", address=f"**{escape(visitor.address)}**"),
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
    identity = current_identity()
    if not identity.login or identity.role is None:
        return
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        role = _(_ROLES[identity.role])
        st.caption(f":material/account_circle: {escape(identity.name)} · {role}", width="content")
        st.button(
            _("Log out"), icon=":material/logout:", type="tertiary", key="account_log_out", on_click=_log_out
        )


def note_login() -> None:
    """Have the audit log tell that somebody logged in, once a login."""
    login = current_identity().login
    if login and resources.audit().begin_login(login):
        authorise(Action.LOG_IN, login)


def follow_wanted(pages: list[Page]) -> None:
    """Once a session: go to the page that somebody wanted to see when they were asked to log in."""
    if st.session_state.get(_FOLLOWED):
        return
    st.session_state[_FOLLOWED] = True
    address = st.context.cookies.to_dict().get(_WANTED_COOKIE)
    if not address:
        return
    st.session_state[_TO_FORGET] = True
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
