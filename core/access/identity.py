"""Identities and how visitors come by theirs: the `[access]` table of Streamlit's secrets.

An identity is a visitor of the dashboard, the owner of this machine, or LMDyno itself. The table says who
gets in, with which role, and who sees what others made:

    [access]
    operators = ["ada@example.com", { claim = "groups", value = "llm-ops" }]
    viewers = ["@example.com"]
    visibility = "link"
    session_hours = 12

An entry is an e-mail address, a domain (`@example.com`), or a claim of the identity token with the value
that it has or holds. Nobody gets in who is not listed.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from ipaddress import ip_address
from typing import Any

from core.errors import ConfigError
from core.i18n import N_, Text


class Role(StrEnum):
    """The rights of a user; each role includes the one before."""

    GUEST = "guest"
    """Vote in the one session whose link they came with."""
    VIEWER = "viewer"
    """See, chat, vote; stop, note and delete what is their own."""
    OPERATOR = "operator"
    """Everything: engines, endpoints, quantising, load tests, and what others made."""


class Visibility(StrEnum):
    """Who sees the conversations and runs of others; operators see all."""

    PRIVATE = "private"
    LINK = "link"
    """Everybody who has its link; lists hold one's own only."""
    ALL = "all"


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody with an account, as a record names them."""

    id: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A user and what they may do."""

    id: str
    """Stable and unique: the e-mail address, else the provider's subject. What they make is stored by it."""
    name: str
    """For people: in the audit log, and as in "stopped by NAME"."""
    role: Role | None
    """None may do nothing."""
    sees: Visibility = Visibility.ALL
    """What they see of others' conversations and runs."""
    login: str = ""
    """The login by which they came, so that it can be ended; "" for those who need none."""

    @property
    def owner(self) -> str | None:
        """What is stored as the owner of what they make; None where there are no accounts."""
        return self.id if self.login else None

    @property
    def person(self) -> Person | None:
        """How a record names them; None where there are no accounts."""
        return Person(id=self.id, name=self.name) if self.login else None

    @property
    def is_operator(self) -> bool:
        return self.role is Role.OPERATOR


LOCAL = Identity(id="local", name="this machine", role=Role.OPERATOR)
"""Whoever uses the command line, or a dashboard that is open and reached from this machine alone."""

SYSTEM = Identity(id="system", name="LMDyno", role=Role.OPERATOR)
"""The program itself, such as when it starts engines with the dashboard."""

GUEST = Identity(id="guest", name="guest", role=Role.GUEST, sees=Visibility.PRIVATE)
"""A visitor without a login, behind the voting link of a session that admits guests."""

READER = Identity(id="reader", name="reader", role=Role.VIEWER)
"""Everybody at a dashboard that only replays recordings."""

NOBODY = Identity(id="nobody", name="nobody", role=None)
"""A visitor who is not logged in, is not listed, or whose login has ended."""


_KEYS = ("operators", "viewers", "visibility", "session_hours")
_CLOCKS_APART = timedelta(minutes=5)


def _email_of(claims: Mapping[str, Any]) -> str | None:
    """The address in lower case; None without one, or if the provider calls it unverified, also in a word."""
    email = claims.get("email")
    is_unverified = str(claims.get("email_verified", True)).strip().lower() in ("false", "0", "no")
    return email.strip().lower() if isinstance(email, str) and email and not is_unverified else None


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of a list: a claim and the value that it must have."""

    claim: str
    value: str

    def fits(self, claims: Mapping[str, Any]) -> bool:
        found = claims.get(self.claim)
        if self.claim == "email":
            address = _email_of(claims)
            if address is None:
                return False
            return address.endswith(self.value) if self.value.startswith("@") else address == self.value
        if isinstance(found, (list, tuple)):
            return self.value in [str(each) for each in found]
        return found is not None and str(found) == self.value


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessPolicy:
    """The list of those who are admitted; nobody without entries."""

    operators: tuple[_Entry, ...] = ()
    viewers: tuple[_Entry, ...] = ()
    visibility: Visibility = Visibility.LINK
    session: timedelta = timedelta(hours=12)
    """How long a login is good for."""

    @classmethod
    def read(cls, table: object) -> "AccessPolicy":
        """The policy of an `[access]` table; None is an empty one. Raises ConfigError."""
        if table is None:
            return cls()
        if not isinstance(table, Mapping):
            raise _mistake("access", N_('Write [access] with operators = ["…"] below it.'))
        for key in table:
            if key not in _KEYS:
                raise _mistake(str(key), N_("Allowed: {names}.", names=", ".join(_KEYS)))
        hours = table.get("session_hours", 12)
        if not isinstance(hours, (int, float)) or isinstance(hours, bool) or not 0 < hours <= 720:
            raise _mistake("session_hours", N_("Allowed: a number of hours greater than 0 and at most 720."))
        visibility = table.get("visibility", Visibility.LINK)
        if visibility not in list(Visibility):
            raise _mistake("visibility", N_("Allowed: {names}.", names=", ".join(Visibility)))
        return cls(
            operators=_entries("operators", table.get("operators", [])),
            viewers=_entries("viewers", table.get("viewers", [])),
            visibility=Visibility(visibility),
            session=timedelta(hours=float(hours)),
        )

    def role_of(self, claims: Mapping[str, Any]) -> Role | None:
        """The role by the claims of a visitor's identity token; None if they aren't listed."""
        if any(entry.fits(claims) for entry in self.operators):
            return Role.OPERATOR
        return Role.VIEWER if any(entry.fits(claims) for entry in self.viewers) else None

    def identify(self, claims: Mapping[str, Any], now: datetime) -> Identity:
        """Return who a visitor is: without a role if they aren't listed, NOBODY if their login is too old."""
        email = _email_of(claims)
        identity = str(claims.get("sub") or "") if email is None else email
        name = str(claims.get("name") or identity or NOBODY.name)
        login = login_of(claims)
        if not identity or not login or not self.is_fresh(claims, now):
            return NOBODY
        role = self.role_of(claims)
        sees = Visibility.ALL if role is Role.OPERATOR else self.visibility
        return Identity(id=identity, name=name, role=role, sees=sees, login=login)

    def is_fresh(self, claims: Mapping[str, Any], now: datetime) -> bool:
        """Whether the login is younger than the session may be."""
        issued_at = claims.get("iat")
        if not isinstance(issued_at, (int, float)) or isinstance(issued_at, bool):
            return False
        age = now - datetime.fromtimestamp(issued_at, UTC)
        return -_CLOCKS_APART <= age < self.session


def without_login(address: str | None, open_to: str = "") -> Identity:
    """The identity of every visitor without a login: the machine's owner if only it can reach the dashboard.

    Args:
        address: what the server listens at; None is every address of the machine.
        open_to: the role that somebody chose to give everybody; "" is none.

    Raises ConfigError for a role that there isn't.
    """
    if open_to:
        if open_to not in (Role.VIEWER, Role.OPERATOR):
            raise ConfigError(
                N_("LMDYNO_OPEN_TO_ALL is {value}", value=open_to),
                hint=N_("Allowed: viewer or operator, or leave it unset."),
                code="access",
            )
        return Identity(id="visitor", name="visitor", role=Role(open_to))
    return LOCAL if _is_loopback(address) else NOBODY


def _is_loopback(address: str | None) -> bool:
    if address == "localhost":
        return True
    try:
        return ip_address(address or "").is_loopback
    except ValueError:
        return False


def login_of(claims: Mapping[str, Any]) -> str:
    """A name for one login: the same in all tabs of a browser, another after the next login."""
    issued_at, subject = claims.get("iat"), claims.get("sub") or claims.get("email")
    if issued_at is None or not subject:
        return ""
    parts = (str(claims.get("iss", "")), str(subject), str(issued_at), str(claims.get("nonce", "")))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _entries(key: str, listed: object) -> tuple[_Entry, ...]:
    if isinstance(listed, str) or not isinstance(listed, Sequence):
        raise _mistake(key, N_('Allowed: {key} = ["ada@example.com", "@example.com"].', key=key))
    return tuple(_entry(key, each) for each in listed)


def _entry(key: str, written: object) -> _Entry:
    if isinstance(written, str) and "@" in written and len(written) > 1 and " " not in written:
        return _Entry("email", written.lower())
    if isinstance(written, Mapping) and set(written) == {"claim", "value"}:
        claim, value = written["claim"], written["value"]
        if isinstance(claim, str) and claim and isinstance(value, (str, int)) and claim != "email":
            return _Entry(claim, str(value))
    raise _mistake(
        key,
        N_(
            'An entry is an email address, a domain such as "@example.com", or a claim such as {example}.',
            example='{ claim = "groups", value = "llm-ops" }',
        ),
    )


def _mistake(key: str, hint: Text) -> ConfigError:
    return ConfigError(
        N_("The [access] table in the secrets file is wrong at {key}.", key=key), hint=hint, code="access"
    )
