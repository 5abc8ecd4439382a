"""Badges that several parts of the sessions pages draw."""

from core.domain.sessions import SessionState
from core.i18n import _
from core.sessions.wording import STATE_NAMES

_COLORS = {SessionState.DRAFT: "orange", SessionState.OPEN: "green", SessionState.CLOSED: "gray"}


def badge(state: SessionState) -> str:
    """The state in its colour, as Markdown."""
    return f":{_COLORS[state]}-badge[{_(STATE_NAMES[state])}]"
