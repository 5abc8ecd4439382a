"""The answers of a session: the job that makes them, what each lane has so far, and opening the voting."""

from collections import Counter

import streamlit as st

from core import units
from core.access.guard import Action, may
from core.domain.sessions import Candidate, Session, SessionAnswer, SessionState
from core.errors import LMDynoError
from core.i18n import _, ngettext
from core.jobs.records import JobStatus
from core.sessions.items import build_ballot, giveaways, usable_texts
from core.sessions.prompts import set_label
from core.sessions.run.answering import missing_answers
from core.sessions.run.job import ANSWERS_KIND, job_of, start_answers
from core.sessions.wording import DISPLAY_NAMES, MODE_NAMES, has_failed
from core.ui.sessions import address
from core.ui.shared import resources
from core.ui.shared.components import escape, lane_label, show_error, show_toast
from core.ui.shared.images import show_images
from core.ui.shared.jobs import show_job, show_job_log
from core.ui.shared.live_text import show_text

REFRESH_S = 2.0
_GIVEAWAYS_SHOWN = 10


def show(session: Session) -> None:
    _show_plan(session)
    job = _job(session)
    if job and not job.state.ended:
        _show_running()
        return
    if job:
        with st.container(border=True):
            show_job(job)
            show_job_log(job)
    answers = resources.sessions().answers(session.id)
    _show_lanes(session, answers)
    if session.state is SessionState.DRAFT:
        _show_giveaways(session, answers)
        _show_next(session, answers)
    _show_answers(session, answers)


def _job(session: Session) -> JobStatus | None:
    return job_of(resources.settings(), session.id, ANSWERS_KIND)


@st.fragment(run_every=REFRESH_S)
def _show_running() -> None:
    """The job while it runs; refreshes itself, and the page at its end."""
    session = address.session_in_view()
    job = _job(session) if session else None
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
            on_click=_open,
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


def _show_answers(session: Session, answers: tuple[SessionAnswer, ...]) -> None:
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
    try:
        start_answers(resources.settings(), session)
    except LMDynoError as error:
        show_toast(error)


def _open(session: Session) -> None:
    try:
        texts = usable_texts(resources.sessions().answers(session.id))
        ballot = build_ballot(session.plan, texts)
        resources.sessions().open_voting(session.id, ballot.items, identical_pairs=ballot.identical_pairs)
    except LMDynoError as error:
        show_toast(error)
