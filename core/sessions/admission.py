"""Who may take part in a session, among those who have its link."""

from core.access.identity import Identity
from core.domain.sessions import SessionPlan
from core.errors import InputError
from core.i18n import N_


def is_invited(plan: SessionPlan, identity: Identity, name: str | None) -> bool:
    """Whether somebody is on the session's list, by login or by name; without a list everybody is.

    `name` is None before it is known; then nobody without a login is turned away.
    """
    if not plan.invited:
        return True
    entries = {entry.strip().casefold() for entry in plan.invited}
    if identity.owner is not None:
        address = identity.owner.casefold()
        domain = f"@{address.partition('@')[2]}" if "@" in address else None
        return address in entries or domain in entries
    return name is None or " ".join(name.split()).casefold() in entries


def require_invited(plan: SessionPlan, identity: Identity, name: str) -> None:
    """Raise InputError (`not-invited`) for somebody who is not on the session's list."""
    if not is_invited(plan, identity, name):
        raise InputError(
            N_("This session is for invited people, and this name is not on its list."),
            hint=N_("Enter it as it is on the invitation, or ask whoever sent you the link."),
            code="not-invited",
        )
