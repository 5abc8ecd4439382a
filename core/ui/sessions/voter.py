"""Who votes in this browser session, in which session, and when the item in view was shown.

The address holds both: `session` is the secret of the voting link, `seat` the code of whoever joined, so that
a reload goes on where it was.
"""

from time import monotonic

import streamlit as st

from core.access.guard import current_identity
from core.domain.sessions import Participant, Session
from core.ui.shared import resources
from core.ui.shared.visitor import VOTING_LINK

LINK = VOTING_LINK
SEAT = "seat"
_SHOWN = "voter_shown"


def session_in_view() -> Session | None:
    """The session whose voting link is in the address; None if there is none. Raises StoreError."""
    link = st.query_params.get(LINK, "")
    return resources.sessions().session_of_link(link) if link else None


def current_participant(session: Session) -> Participant | None:
    """Who votes here: by the code in the address; None before joining. Raises StoreError."""
    code = st.query_params.get(SEAT, "")
    person = resources.votes().participant(session.id, code) if code else None
    user = current_identity().owner
    # A code of somebody else who signed in opens nothing to others.
    return person if person is None or person.user in (None, user) else None


def take_seat(person: Participant) -> None:
    st.query_params[SEAT] = person.code


def shown_s(item: int) -> float:
    """Seconds since this item came into view in this browser session; starts with the first call."""
    shown: tuple[int, float] | None = st.session_state.get(_SHOWN)
    if shown is None or shown[0] != item:
        shown = (item, monotonic())
        st.session_state[_SHOWN] = shown
    return monotonic() - shown[1]


def forget_shown() -> None:
    """The next look at an item counts as its first."""
    st.session_state.pop(_SHOWN, None)


def tick() -> None:
    """A yield point that sends nothing: Streamlit ends a superseded run at any access to session state."""
    st.session_state.get(_SHOWN)
