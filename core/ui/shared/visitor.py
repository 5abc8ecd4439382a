"""The visitor of a browser session: who they are by Streamlit's login and the secrets' `[access]` table.

Also what a page offers them: only the actions that the guard allows.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

import streamlit as st
from streamlit.errors import StreamlitSecretNotFoundError
from streamlit.runtime.scriptrunner import get_script_run_ctx
from streamlit.web.server.starlette import starlette_auth_routes

from core.access.guard import Action, acting_as, authorise, current_identity, is_read_only, may
from core.access.identity import GUEST, NOBODY, READER, SYSTEM, Identity
from core.access.policy import AccessPolicy, without_login
from core.errors import AccessDenied, ConfigError, LMDynoError
from core.i18n import N_, _
from core.settings import Mode, load_settings
from core.ui.shared import resources

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
