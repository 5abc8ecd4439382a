"""What a host does with a session: have its answers made, open the voting, and invite people.

People come by the voting link or its QR code; a screen shows a room who takes part and what the votes say.
"""

from collections import Counter
from io import BytesIO
from urllib.parse import urlencode, urlsplit

import segno
import streamlit as st

from core import units
from core.access.guard import Action, may
from core.domain.sessions import Candidate, Session, SessionAnswer, SessionState
from core.i18n import _, ngettext
from core.jobs.registry import JobStatus
from core.sessions import telling
from core.sessions.items import assigned_items, build_ballot, giveaways, set_label, usable_texts
from core.sessions.job import ANSWERS_KIND, job_of, missing_answers, start_answers
from core.sessions.telling import DISPLAY_NAMES, MODE_NAMES, has_failed
from core.ui.sessions.list_page import NOT_STARTED, session_in_view
from core.ui.sessions.results import current_results, show_strengths
from core.ui.shared import resources
from core.ui.shared.components import errors_as_toasts, escape, lane_label, show_error, show_images
from core.ui.shared.jobs import show_job, show_job_log
from core.ui.shared.live_text import show_text
from core.ui.shared.presenting import present, set_presenting
from core.ui.shared.visitor import VOTING_LINK

_ANSWERS_REFRESH_S = 2.0
_GIVEAWAYS_SHOWN = 10

_PEOPLE_REFRESH_S = 3.0
_HERE_ONLY = ("localhost", "127.0.0.1", "::1")
_BASE = "session_base_address"

_SCREEN_REFRESH_S = 2.0
_LOOKED_AT = 20


def show_answers(session: Session) -> None:
    _show_plan(session)
    job = _answers_job(session)
    if job and not job.state.ended:
        _show_running()
        return
    if job:
        with st.container(border=True):
            show_job(job)
            show_job_log(job)
    else:
        created, problem = st.session_state.get(NOT_STARTED, (None, None))
        if created == session.id:
            show_error(problem)
    answers = resources.sessions().answers(session.id)
    _show_lanes(session, answers)
    if session.state is SessionState.DRAFT:
        _show_giveaways(session, answers)
        _show_next(session, answers)
    _show_prompt_answers(session, answers)


def _answers_job(session: Session) -> JobStatus | None:
    return job_of(resources.settings(), session.id, ANSWERS_KIND)


@st.fragment(run_every=_ANSWERS_REFRESH_S)
def _show_running() -> None:
    """The job while it runs; refreshes itself, and the page at its end."""
    session = session_in_view()
    job = _answers_job(session) if session else None
    if session is None or job is None or job.state.ended:
        st.rerun()
    with st.container(border=True):
        show_job(job, end=_("Stop"))
    _show_lanes(session, resources.sessions().answers(session.id))


def _show_plan(session: Session) -> None:
    plan = session.plan
    sampling = plan.sampling
    parts = [
        _(set_label(plan.prompts)),
        ngettext("{n} prompt", "{n} prompts", len(plan.prompts.prompts)),
        _("greedy") if sampling.greedy else _("temperature {value}", value=f"{sampling.temperature:g}"),
        _("at most {n} tokens", n=units.count(sampling.max_tokens)),
        _(MODE_NAMES[plan.mode]),
        _(DISPLAY_NAMES[plan.display]),
        ngettext("{n} vote per person", "{n} votes per person", plan.votes_per_person),
        _("{percent} control pairs", percent=units.share(plan.control_ratio)),
    ]
    st.caption(escape(" · ".join(parts)))


def _show_lanes(session: Session, answers: tuple[SessionAnswer, ...]) -> None:
    made = Counter(answer.lane for answer in answers if not has_failed(answer.record))
    failed = {answer.lane: answer for answer in answers if has_failed(answer.record)}
    missing = Counter(key[1] for key in missing_answers(session.plan, answers))
    for place, lane in enumerate(session.plan.lanes):
        total = made[place] + missing[place]
        st.progress(
            made[place] / total if total else 1.0,
            text=_(
                "{lane}: {made} of {total} answers", lane=lane_label(lane.name), made=made[place], total=total
            ),
        )
        if place in failed and (error := failed[place].record.error):
            show_error(error)


def _show_giveaways(session: Session, answers: tuple[SessionAnswer, ...]) -> None:
    telling = giveaways(session.plan, answers)
    if not telling:
        return
    warning = ngettext(
        "{n} answer names a lane or a model, which tells voters whose it is.",
        "{n} answers name a lane or a model, which tells voters whose they are.",
        len(telling),
    )
    places = "\n".join(
        _(
            "- prompt {number}, {lane}: “{word}”",
            number=giveaway.prompt + 1,
            lane=escape(session.plan.lanes[giveaway.lane].name),
            word=escape(giveaway.word),
        )
        for giveaway in telling[:_GIVEAWAYS_SHOWN]
    )
    st.warning(f"{warning}\n\n{places}", icon=":material/visibility:")


def _show_next(session: Session, answers: tuple[SessionAnswer, ...]) -> None:
    missing = missing_answers(session.plan, answers)
    ballot = build_ballot(session.plan, usable_texts(answers))
    real = sum(item.control is None for item in ballot.items)
    with st.container(horizontal=True, vertical_alignment="center"):
        if missing:
            st.button(
                _("Resume"),
                icon=":material/play_arrow:",
                on_click=_resume,
                args=(session,),
                disabled=not may(Action.START_JOB),
                help=_("Ask again for answers that are missing or failed."),
            )
        st.button(
            _("Open voting"),
            type="primary",
            icon=":material/how_to_vote:",
            on_click=_open_voting,
            args=(session,),
            disabled=not real or not may(Action.START_JOB),
        )
    if not real:
        st.caption(_("There is nothing to vote on, because no prompt has different answers from two lanes."))
        return
    outlook = ngettext("{n} item can be voted on.", "{n} items can be voted on.", real)
    if missing:
        outlook += " " + ngettext(
            "{n} answer is missing. Comparisons that need it are excluded.",
            "{n} answers are missing. Comparisons that need them are excluded.",
            len(missing),
        )
    st.caption(outlook)


def _show_prompt_answers(session: Session, answers: tuple[SessionAnswer, ...]) -> None:
    """Any prompt with all its answers, to look over before anybody votes."""
    if not answers:
        return
    with st.expander(_("View the answers"), icon=":material/visibility:"):
        prompts = session.plan.prompts.prompts
        place = st.pagination(len(prompts), key=f"look_{session.id}") - 1
        show_images(prompts[place].images)
        show_text(prompts[place].text, key="look_prompt")
        known = {Candidate(a.lane, a.sample): a.record for a in answers if a.prompt == place}
        with st.grid(min(3, len(session.plan.lanes)), min_column_width=280) as grid:
            for candidate, record in sorted(known.items(), key=lambda pair: (pair[0].lane, pair[0].sample)):
                with grid.cell():
                    st.markdown(lane_label(session.plan.lanes[candidate.lane].name))
                    with st.container(height=260, border=True, autoscroll=False):
                        if record.error:
                            show_error(record.error)
                        show_text(record.text, key=f"look_{record.id}")


def _resume(session: Session) -> None:
    with errors_as_toasts():
        start_answers(resources.settings(), session)


def _open_voting(session: Session) -> None:
    with errors_as_toasts():
        texts = usable_texts(resources.sessions().answers(session.id))
        ballot = build_ballot(session.plan, texts)
        resources.sessions().open_voting(session.id, ballot.items, identical_pairs=ballot.identical_pairs)


def show_invitation(session: Session) -> None:
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
    return f"{_base()}/?{urlencode({VOTING_LINK: session.link})}"


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
                on_click=_close_voting,
                args=(session,),
                disabled=not may(Action.START_JOB),
                help=_("Stop taking votes and show the results to everybody who took part."),
            )
        else:
            st.button(
                _("Open voting again"),
                icon=":material/lock_open:",
                on_click=_reopen_voting,
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


@st.fragment(run_every=_PEOPLE_REFRESH_S)
def _show_people() -> None:
    session = session_in_view()
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


def _close_voting(session: Session) -> None:
    with errors_as_toasts():
        resources.sessions().close_voting(session.id)


def _reopen_voting(session: Session) -> None:
    with errors_as_toasts():
        resources.sessions().open_voting(session.id, session.items, identical_pairs=session.identical_pairs)


def show_screen() -> None:
    """The session that the address names."""
    present(lambda: _show_screen(session_in_view()), refresh_s=_SCREEN_REFRESH_S)


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
