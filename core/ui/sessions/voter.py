"""The voter of this browser session: joining, the session, and when the item in view was shown.

The address holds both: `session` is the secret of the voting link, `seat` the code of whoever joined, so that
a reload goes on where it was.
"""

from time import monotonic

import streamlit as st

from core.access.guard import current_identity
from core.domain.sessions import Participant, Session
from core.errors import InputError, LMDynoError
from core.i18n import N_, _
from core.sessions.assignment import require_invited
from core.store.sessions.votes import LONGEST_NAME
from core.ui.shared import resources
from core.ui.shared.components import show_error
from core.ui.shared.visitor import VOTING_LINK

LINK = VOTING_LINK
SEAT = "seat"
_SHOWN = "voter_shown"

_NAME = "join_name"
_CODE = "join_code"


def session_in_view() -> Session | None:
    """The session whose voting link is in the address; None if there is none. Raises StoreError."""
    link = st.query_params.get(LINK, "")
    return resources.sessions().session_of_link(link) if link else None


def current_participant(session: Session) -> Participant | None:
    """The voter, by the code in the address; None before joining. Raises StoreError."""
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


def show_join(session: Session) -> None:
    """Ask for a name; who is signed in is asked for none."""
    identity = current_identity()
    if session.plan.purpose:
        st.text(session.plan.purpose)
    st.markdown(
        _(
            "You see answers from different models to the same prompts without knowing which model wrote "
            "which answer. Say which one is better. Take your time, and trust your own judgement."
        )
    )
    if identity.owner is not None:
        _take_part(session, identity.name, identity.owner)
        return
    with st.form("join", border=True, width=420):
        name = st.text_input(_("Your name or a nickname"), max_chars=LONGEST_NAME, key=_NAME)
        if st.form_submit_button(_("Join"), type="primary", icon=":material/how_to_vote:"):
            _take_part(session, name, None)
    with st.expander(_("I started on another device"), icon=":material/devices:"), st.form("resume"):
        code = st.text_input(_("Your code"), key=_CODE, help=_("It is shown next to your votes."))
        if st.form_submit_button(_("Continue")):
            _resume(session, code)


def _take_part(session: Session, name: str, user: str | None) -> None:
    try:
        require_invited(session.plan, current_identity(), name)
        take_seat(resources.votes().join(session.id, name, user=user))
    except LMDynoError as error:
        show_error(error)
        return
    st.rerun()


def _resume(session: Session, code: str) -> None:
    person = resources.votes().participant(session.id, code)
    if person is None or person.user is not None:
        show_error(
            InputError(
                N_("No participant of this session has this code."),
                hint=N_("Check it, or join with a name."),
                code="no-such-code",
            )
        )
        return
    take_seat(person)
    st.rerun()
