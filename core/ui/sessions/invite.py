"""Invite people: the voting link, its QR code, who takes part, and the screen for a room."""

from io import BytesIO
from urllib.parse import urlencode, urlsplit

import segno
import streamlit as st

from core.access.guard import Action, may
from core.domain.sessions import Session, SessionState
from core.errors import LMDynoError
from core.i18n import _, ngettext
from core.sessions import telling
from core.sessions.assignment import assigned_items
from core.ui.sessions import address, voter
from core.ui.sessions.results import current_results, show_strengths
from core.ui.shared import resources
from core.ui.shared.components import escape, show_toast
from core.ui.shared.presenting import present, set_presenting

REFRESH_S = 3.0
_HERE_ONLY = ("localhost", "127.0.0.1", "::1")
_BASE = "session_base_address"

_SCREEN_REFRESH_S = 2.0
_LOOKED_AT = 20


def show(session: Session) -> None:
    if session.state is SessionState.DRAFT:
        st.info(_("People can join once voting is open. Open it on the Answers tab."), icon=":material/lock:")
        return
    link, code = st.columns([2, 1], vertical_alignment="center")
    with link:
        _show_base()
        st.code(voting_link(session), language=None, wrap_lines=True)
        st.caption(_("The link opens this session and nothing else of the dashboard."))
        _show_buttons(session)
    with code:
        st.image(qr_code(voting_link(session)), width=220, alt=_("QR code of the voting link"))
    _show_people()


def voting_link(session: Session) -> str:
    """The voting link, by the address of the host's browser or the one that the host entered for others."""
    return f"{_base()}/?{urlencode({voter.LINK: session.link})}"


def qr_code(text: str, *, scale: int = 8) -> bytes:
    """The text as a PNG, black on white in either theme."""
    file = BytesIO()
    segno.make(text, error="m").save(file, kind="png", scale=scale, border=3)
    return file.getvalue()


def _base() -> str:
    """The dashboard's address without the page's own path."""
    if given := (st.session_state.get(_BASE) or "").strip().rstrip("/"):
        return given if "://" in given else f"http://{given}"
    parts = urlsplit(st.context.url or "http://localhost:8501")
    path = parts.path.rstrip("/").removesuffix("/sessions")
    return f"{parts.scheme}://{parts.netloc}{path}"


def _show_base() -> None:
    host = urlsplit(_base()).hostname
    if host in _HERE_ONLY or st.session_state.get(_BASE):
        st.text_input(
            _("Address of this dashboard for others"),
            key=_BASE,
            placeholder="http://192.168.1.20:8501",
            persist_state="session",
        )
    if host in _HERE_ONLY:
        st.warning(
            _("This link works on this machine only. Enter the address under which others reach it."),
            icon=":material/lan:",
        )


def _show_buttons(session: Session) -> None:
    with st.container(horizontal=True):
        if session.state is SessionState.OPEN:
            st.button(
                _("Close voting"),
                icon=":material/lock:",
                on_click=_close,
                args=(session,),
                disabled=not may(Action.START_JOB),
                help=_("Stop taking votes and show the results to everybody who took part."),
            )
        else:
            st.button(
                _("Open voting again"),
                icon=":material/lock_open:",
                on_click=_reopen,
                args=(session,),
                disabled=not may(Action.START_JOB),
            )
        st.button(
            _("Present"),
            icon=":material/present_to_all:",
            on_click=set_presenting,
            args=(True,),
            help=_("Show a screen for the room: QR code, progress, and results."),
        )


@st.fragment(run_every=REFRESH_S)
def _show_people() -> None:
    session = address.session_in_view()
    if session is None:
        return
    people = resources.votes().participants(session.id)
    given: dict[str, int] = {}
    for vote in resources.votes().votes(session.id):
        given[vote.participant_id] = given.get(vote.participant_id, 0) + 1
    st.markdown(f"##### {_('Participants')} ({len(people)})", anchors=False)
    if not people:
        st.caption(_("Nobody has joined yet. This list refreshes automatically."))
    for person in people:
        total = len(assigned_items(session.id, session.plan, session.items, person.seat))
        done = given.get(person.id, 0)
        st.progress(
            min(1.0, done / total) if total else 1.0,
            text=_("{name}: {done} of {total}", name=escape(person.name), done=done, total=total),
        )


def _close(session: Session) -> None:
    try:
        resources.sessions().close_voting(session.id)
    except LMDynoError as error:
        show_toast(error)


def _reopen(session: Session) -> None:
    try:
        resources.sessions().open_voting(session.id, session.items, identical_pairs=session.identical_pairs)
    except LMDynoError as error:
        show_toast(error)


def show_screen() -> None:
    """The session that the address names."""
    present(lambda: _show_screen(address.session_in_view()), refresh_s=_SCREEN_REFRESH_S)


def show_newest_session() -> None:
    """The newest session that people vote in or have voted in. Raises StoreError."""
    summaries = resources.sessions().summaries(_LOOKED_AT)
    newest = next((summary for summary in summaries if summary.state is not SessionState.DRAFT), None)
    if newest is None:
        st.info(_("No session has been opened yet."), icon=":material/how_to_vote:")
        return
    _show_screen(resources.sessions().session(newest.id))


def _show_screen(session: Session | None) -> None:
    if session is None:
        return
    st.markdown(f"# {escape(session.plan.title)}", anchors=False)
    turnout = resources.votes().turnout(session.id)
    if session.state is SessionState.OPEN:
        code, counts = st.columns([1, 1], vertical_alignment="center")
        with code:
            st.image(qr_code(voting_link(session), scale=12), width=420, alt=_("QR code of the voting link"))
        with counts:
            _show_counts(turnout.participants, turnout.votes)
    if session.state is SessionState.CLOSED or (
        session.state is SessionState.OPEN and not session.plan.results_hidden
    ):
        results, _votes = current_results(session)
        st.markdown(f"## {escape(telling.headline(session, results.standings))}", anchors=False)
        if session.state is SessionState.CLOSED:
            _show_counts(results.participants, results.votes)
        if results.votes:
            show_strengths(session, results.standings, key=f"present_{session.id}", large=True)


def _show_counts(people: int, votes: int) -> None:
    voters = ngettext("{n} person", "{n} people", people)
    cast = ngettext("{n} vote", "{n} votes", votes)
    st.markdown(f"## {voters}", anchors=False)
    st.markdown(f"## {cast}", anchors=False)
