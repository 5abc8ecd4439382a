"""Join a session: under a nickname, under the name of the login, or with the code of an earlier device."""

import streamlit as st

from core.access.guard import current_identity
from core.domain.sessions import Session
from core.errors import InputError, LMDynoError
from core.i18n import N_, _
from core.sessions.admission import require_invited
from core.store.sessions.votes import LONGEST_NAME
from core.ui.sessions import voter
from core.ui.shared import resources
from core.ui.shared.components import show_error

_NAME = "join_name"
_CODE = "join_code"


def show(session: Session) -> None:
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
        voter.take_seat(resources.votes().join(session.id, name, user=user))
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
    voter.take_seat(person)
    st.rerun()
