"""What of the store whoever acts may see, as conditions on the column that holds the owner."""

from sqlalchemy import Column, ColumnElement, false, true

from core.access.guard import current_identity
from core.access.identity import Visibility


def listed(owner: Column[str]) -> ColumnElement[bool]:
    """Rows that lists show: all, or only one's own."""
    return _own_unless(owner, Visibility.ALL)


def by_link(owner: Column[str]) -> ColumnElement[bool]:
    """Rows that are shown to those who have their address."""
    return _own_unless(owner, Visibility.ALL, Visibility.LINK)


def _own_unless(owner: Column[str], *sufficient: Visibility) -> ColumnElement[bool]:
    identity = current_identity()
    if identity.role is None:
        return false()
    return true() if identity.sees in sufficient else owner == identity.owner
