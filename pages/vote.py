"""Vote: the page behind a voting link: join, vote, and what comes after. It opens nothing but its session."""

import streamlit as st

from core.access.guard import current_identity
from core.domain.sessions import Participant, Session, SessionState, Vote
from core.errors import LMDynoError
from core.i18n import _
from core.sessions.items import Assigned, assigned_items, deploy_items, is_invited
from core.ui.sessions.results import show_results
from core.ui.sessions.vote import (
    current_participant,
    session_in_view,
    show_ballot,
    show_deploy_vote,
    show_join,
    show_undo,
)
from core.ui.shared import browser, resources, shell
from core.ui.shared.components import escape, show_error

_WAIT_S = 3.0
WIDTH_PX = 1200


def _show() -> None:
    session = session_in_view()
    if session is None:
        st.title(_("There is no such session."), anchor=False)
        st.markdown(_("The link is incomplete, or the session was deleted. Ask whoever sent it to you."))
        return
    st.markdown(f"##### {escape(session.plan.title)}", anchors=False)
    person = current_participant(session)
    if session.state is SessionState.DRAFT:
        _show_waiting()
    elif session.state is SessionState.CLOSED:
        _show_closed(session)
    elif not is_invited(session.plan, current_identity(), person.name if person else None):
        st.info(_("This session is for invited people, and you are not on its list."), icon=":material/lock:")
    elif person is None:
        show_join(session)
    else:
        _show_voting(session, person)


@st.fragment(run_every=_WAIT_S)
def _show_waiting() -> None:
    session = session_in_view()
    if session is None or session.state is not SessionState.DRAFT:
        st.rerun()
    st.info(
        _("The session has not started. This page continues automatically when it does."),
        icon=":material/hourglass_top:",
    )


def _show_closed(session: Session) -> None:
    st.info(_("Voting has ended. Thank you for taking part."), icon=":material/how_to_vote:")
    show_results(session, for_voters=True)


def _show_voting(session: Session, person: Participant) -> None:
    order = assigned_items(session.id, session.plan, session.items, person.seat)
    given = {vote.item: vote for vote in resources.votes().votes_of(person.id)}
    left = [assigned for assigned in order if assigned.item not in given]
    if left:
        show_ballot(session, person, left[0], done=len(order) - len(left), total=len(order))
    else:
        _show_after(session, person, order, given)


def _show_after(
    session: Session, person: Participant, order: tuple[Assigned, ...], given: dict[int, Vote]
) -> None:
    """The second votes, then thanks, and the results if they are not hidden until the end."""
    second_looks = deploy_items(session, [assigned for assigned in order if assigned.item in given], given)
    open_ones = [assigned for assigned in second_looks if given[assigned.item].deploy is None]
    if open_ones:
        first = open_ones[0]
        show_deploy_vote(
            session, person, first, given[first.item], len(second_looks) - len(open_ones), len(second_looks)
        )
        return
    st.success(_("That was all. Thank you for voting."), icon=":material/check_circle:")
    if not second_looks:
        show_undo(person)
    if session.plan.results_hidden:
        st.caption(_("The results are shown here when the session is closed."))
        _wait_for_end()
    else:
        show_results(session, for_voters=True)


@st.fragment(run_every=_WAIT_S)
def _wait_for_end() -> None:
    session = session_in_view()
    if session is None or session.state is not SessionState.OPEN:
        st.rerun()


shell.require(guests=True)
with st.container(horizontal_alignment="center"), st.container(width=WIDTH_PX):
    try:
        _show()
    except LMDynoError as error:
        show_error(error)
    with st.container(horizontal_alignment="right"):
        browser.show_language_switch()
