"""Identities: a visitor of the dashboard, the owner of this machine, or LMDyno itself."""

from dataclasses import dataclass
from enum import StrEnum


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
