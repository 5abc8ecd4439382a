"""Offer visitors only the actions that the guard allows them."""

from collections.abc import Callable
from typing import TypeVar

import streamlit as st

from core.access.guard import Action, acting_as, authorise, current_identity, is_read_only, may
from core.errors import AccessDenied
from core.i18n import N_, _
from core.ui.shared import resources

T = TypeVar("T")


def offers(action: Action) -> bool:
    """Whether to draw what does that; if not, say in its place for whom it is."""
    if may(action):
        return True
    if is_read_only():
        return False
    st.info(_("Only operators can do this. You can see what they started."), icon=":material/lock:")
    return False


def exporting(target: str, make: Callable[[], T]) -> Callable[[], T]:
    """The function as the audit log knows of it: a download is made later, outside of the session's run."""
    identity = current_identity()

    def made() -> T:
        if identity.login and resources.audit().has_ended(identity.login):
            raise AccessDenied(N_("Your login has expired."), code="logged-out")
        with acting_as(identity):
            authorise(Action.EXPORT, target)
            return make()

    return made


def is_mine(owner: str | None) -> bool:
    """Whether something belongs to the visitor, as everything does to operators, and they may change it."""
    return may(Action.ANNOTATE, owner=owner)
