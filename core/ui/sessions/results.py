"""The results of a session: on a page for its host and voters, judged by a model, and as files.

Voters see them when they may. A model's judgements stand next to the participants' votes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import streamlit as st

from core import units
from core.access.guard import Action, authorise, may
from core.charts.quality import PreferencePoint, StrengthBar, preference_chart, strengths_chart
from core.domain.sessions import Session, SessionRecord, SessionState, Vote
from core.i18n import N_, Message, _
from core.jobs.registry import JobStatus
from core.reports.html import session_html
from core.sessions import telling
from core.sessions.exports import (
    FORMAT_NAMES,
    battle_log,
    llm_comparator,
    session_json,
    session_schema,
    votes_csv,
)
from core.sessions.job import JUDGING_KIND, job_of, start_judging
from core.sessions.results import SessionResults, compute_results, judge_results
from core.sessions.statistics import Standings
from core.sessions.telling import REASON_NAMES, LaneFigures, lane_figures
from core.store.sessions import Turnout
from core.ui.sessions.list_page import go_to_list, session_in_view
from core.ui.shared import resources
from core.ui.shared.components import color_of, errors_as_toasts, escape, lane_label, show_chart
from core.ui.shared.jobs import show_job

_RESULTS = "session_results"
_FIGURES = "session_figures"

REFRESH_S = 2.0
_PAIRS = 60
_JUDGE = "session_judge"
_NUMBER = "session_judge_pairs"
_NAMES = "export_names"


@dataclass(frozen=True, slots=True)
class _TradeOff:
    """A measured figure that quality can be seen beside."""

    name: Message
    axis: Message
    tick_format: str
    value: Callable[[LaneFigures], float | None]


_TRADE_OFFS = {
    "speed": _TradeOff(
        N_("Decode speed"),
        N_("tokens per second (higher is better)"),
        "~s",
        lambda figures: figures.decode_tok_per_s,
    ),
    "ttft": _TradeOff(
        N_("First token"), N_("TTFT in seconds (lower is better)"), "~s", lambda figures: figures.ttft_s
    ),
    "memory": _TradeOff(
        N_("Memory"),
        N_("peak memory in GiB (lower is better)"),
        ".1f",
        lambda figures: units.in_gib(figures.peak_memory_bytes),
    ),
    "energy": _TradeOff(
        N_("Energy"),
        N_("joules per token (lower is better)"),
        ".2f",
        lambda figures: figures.energy_j_per_token,
    ),
}


def show_results(session: Session, *, for_voters: bool = False) -> None:
    """Everything that the votes say so far."""
    results, votes = current_results(session)
    st.markdown(f"#### {escape(telling.headline(session, results.standings))}", anchors=False)
    st.caption(escape(" · ".join(telling.turnout(results))))
    if not results.votes:
        st.info(_("There are no votes yet."), icon=":material/how_to_vote:")
        return
    show_strengths(session, results.standings, key=f"strengths_{session.id}")
    labels = _labels(session)
    st.table(telling.standings_table(results.standings, labels), border="horizontal", hide_index=True)
    st.caption(_(telling.STRENGTHS_NOTE))
    _show_trade_off(session, results)
    _show_details(session, results, labels)
    if not for_voters:
        _show_judges(session, votes, labels)


def current_results(session: Session) -> tuple[SessionResults, Sequence[Vote]]:
    """Computed anew only when somebody voted since."""
    turnout = resources.votes().turnout(session.id)
    cache: dict[str, tuple[Turnout, SessionResults, tuple[Vote, ...]]] = st.session_state.setdefault(
        _RESULTS, {}
    )
    cached = cache.get(session.id)
    if cached is None or cached[0] != turnout:
        votes = resources.votes().votes(session.id)
        cached = (turnout, compute_results(session, votes), votes)
        cache[session.id] = cached
    return cached[1], cached[2]


def current_figures(session: Session) -> tuple[LaneFigures, ...]:
    """Of answers that are made; kept, since they are many and don't change any more."""
    cache: dict[str, tuple[int, tuple[LaneFigures, ...]]] = st.session_state.setdefault(_FIGURES, {})
    number = len(resources.sessions().answer_keys(session.id))
    cached = cache.get(session.id)
    if cached is None or cached[0] != number:
        cached = (number, lane_figures(session, resources.sessions().answers(session.id)))
        cache[session.id] = cached
    return cached[1]


def show_strengths(session: Session, standings: Standings, *, key: str, large: bool = False) -> None:
    names = telling.lane_names(session)
    bars = [
        StrengthBar(
            lane=names[lane.lane],
            points=lane.points,
            low=lane.low,
            high=lane.high,
            text=_("rank {rank}", rank=telling.rank_text(lane, standings))
            if standings.is_ranked(lane.lane)
            else _("undecided"),
        )
        for lane in standings.lanes
        if lane.points is not None
    ]
    if not bars:
        st.info(_("No vote prefers an answer yet, so there are no ratings."), icon=":material/balance:")
        return
    colors = {name: color_of(name) for name in names}
    show_chart(
        strengths_chart(bars, colors, title=_("Rating in points, with 95% intervals"), large=large),
        key=key,
        alt=_("Rating of each lane; values in the table below"),
    )


def _show_trade_off(session: Session, results: SessionResults) -> None:
    figures = current_figures(session)
    st.markdown(f"##### {_('Quality beside what was measured')}", anchors=False)
    chosen = st.segmented_control(
        _("Metric"),
        list(_TRADE_OFFS),
        format_func=lambda name: _(_TRADE_OFFS[name].name),
        default="speed",
        required=True,
        key=f"trade_off_{session.id}",
        label_visibility="collapsed",
    )
    names, trade_off = telling.lane_names(session), _TRADE_OFFS[chosen]
    points = [
        PreferencePoint(lane=names[lane.lane], value=value, points=lane.points, low=lane.low, high=lane.high)
        for lane, figure in zip(results.standings.lanes, figures, strict=True)
        if lane.points is not None and (value := trade_off.value(figure)) is not None
    ]
    if points:
        show_chart(
            preference_chart(
                points,
                {name: color_of(name) for name in names},
                x_title=_(trade_off.axis),
                y_title=_("rating in points"),
                x_format=trade_off.tick_format,
            ),
            key=f"trade_off_chart_{session.id}_{chosen}",
            alt=_(
                "Rating and {figure} of each lane; values in the tables",
                figure=_(trade_off.name),
            ),
        )
    else:
        st.caption(_("No lane has this measurement."))
    st.table(telling.figures_table(figures, _labels(session)), border="horizontal", hide_index=True)


def _show_details(session: Session, results: SessionResults, labels: list[str]) -> None:
    standings = results.standings
    sections = [
        (_("Pairs"), telling.pairs_table(standings, labels)),
        (_("Who was preferred to whom"), telling.win_matrix(standings, labels)),
    ]
    if results.categories:
        sections.append((_("By category"), telling.groups_table(results.categories, labels, _("Category"))))
    if results.languages:
        sections.append((_("By language"), telling.groups_table(results.languages, labels, _("Language"))))
    for title, table in sections:
        st.markdown(f"##### {title}", anchors=False)
        st.table(table, border="horizontal", hide_index=True)
    st.markdown(f"##### {_('How far to trust this')}", anchors=False)
    for line in telling.checks(session, results):
        st.markdown(f"- {escape(line)}")
    if any(results.reasons):
        st.markdown(f"##### {_('Why answers were preferred')}", anchors=False)
        st.table(
            {
                _("Reason"): [_(name) for name in REASON_NAMES.values()],
                **{
                    label: [str(counted.get(reason, 0)) for reason in REASON_NAMES]
                    for label, counted in zip(labels, results.reasons, strict=True)
                },
            },
            border="horizontal",
            hide_index=True,
        )


def _show_judges(session: Session, votes: Sequence[Vote], labels: list[str]) -> None:
    judgements = resources.sessions().judgements(session.id)
    for result in judge_results(session, judgements, votes):
        st.markdown(f"##### {_('Judged by {judge}', judge=escape(result.judge))}", anchors=False)
        st.caption(_("A model's judgements, separate from the participants' votes."))
        st.table(telling.standings_table(result.standings, labels), border="horizontal", hide_index=True)
        for line in telling.judge_lines(session, result):
            st.markdown(f"- {escape(line)}")


def _labels(session: Session) -> list[str]:
    return [lane_label(name) for name in telling.lane_names(session)]


def show_judge(session: Session) -> None:
    """A form to start one, or the job that runs."""
    if session.state is SessionState.DRAFT:
        return
    job = _judging_job(session)
    if job and not job.state.ended:
        _show_judging()
        return
    pairs = sum(item.control is None and len(item.candidates) == 2 for item in session.items)
    if not pairs:
        return
    with st.expander(_("Let a model judge"), icon=":material/gavel:"):
        st.markdown(
            _(
                "A lane judges the same pairs, each in both orders. Its judgements are reported "
                "separately from the participants' votes. A judge that is one of the compared models "
                "favours its own answers."
            )
        )
        if job:
            show_job(job)
        names = [lane.name for lane in resources.lanes().lanes]
        with st.form("judge", border=False):
            st.selectbox(_("Judge"), names, key=_JUDGE)
            st.number_input(_("Pairs"), 1, pairs, min(pairs, _PAIRS), key=_NUMBER)
            st.form_submit_button(
                _("Judge"),
                icon=":material/gavel:",
                on_click=_start_judging,
                args=(session,),
                disabled=not may(Action.START_JOB),
            )


def _judging_job(session: Session) -> JobStatus | None:
    return job_of(resources.settings(), session.id, JUDGING_KIND)


@st.fragment(run_every=REFRESH_S)
def _show_judging() -> None:
    session = session_in_view()
    job = _judging_job(session) if session else None
    if job is None or job.state.ended:
        st.rerun()
    with st.container(border=True):
        show_job(job, end=_("Stop"))


def _start_judging(session: Session) -> None:
    name = st.session_state[_JUDGE]
    judge = next(lane for lane in resources.lanes().lanes if lane.name == name)
    with errors_as_toasts():
        start_judging(resources.settings(), session, judge, most_items=int(st.session_state[_NUMBER]))


def show_files(session: Session) -> None:
    st.toggle(
        _("With the participants' names"),
        key=_NAMES,
        help=_("Without names, participants are numbered. Files never contain links or codes."),
    )
    lanes = telling.lane_names(session)
    pair = st.multiselect(
        _("Lanes for LLM Comparator"),
        lanes,
        default=lanes[:2],
        max_selections=2,
        key=f"pair_{session.id}",
        placeholder=_("Choose one or more"),
    )
    with st.container(horizontal=True):
        _show_download(session, "html", _("Report (HTML)"), "html", _report)
        _show_download(session, "json", _(FORMAT_NAMES["json"]), "json", _json)
        _show_download(session, "csv", _(FORMAT_NAMES["csv"]), "csv", _csv)
        _show_download(session, "battles", _(FORMAT_NAMES["battles"]), "jsonl", battle_log)
        if len(pair) == 2:
            first, second = (lanes.index(name) for name in pair)
            _show_download(
                session,
                "comparator",
                _(FORMAT_NAMES["comparator"]),
                "comparator.json",
                lambda record: llm_comparator(record, first, second),
            )
        _show_download(
            session, "schema", _(FORMAT_NAMES["schema"]), "schema.json", lambda _record: session_schema()
        )
    _show_delete(session)


def _show_download(
    session: Session, kind: str, label: str, ending: str, make: Callable[[SessionRecord], bytes]
) -> None:
    st.download_button(
        label,
        lambda: _made(session, make),
        file_name=f"session-{session.id}.{ending}",
        icon=":material/download:",
        key=f"download_{kind}_{session.id}",
        on_click="ignore",
        disabled=session.state is SessionState.DRAFT and kind != "schema",
    )


def _made(session: Session, make: Callable[[SessionRecord], bytes]) -> bytes:
    authorise(Action.EXPORT, f"session: {session.plan.title}", owner=session.owner)
    return make(resources.sessions().record(session.id))


def _json(record: SessionRecord) -> bytes:
    return session_json(record, names=bool(st.session_state.get(_NAMES)))


def _csv(record: SessionRecord) -> bytes:
    return votes_csv(record, names=bool(st.session_state.get(_NAMES)))


def _report(record: SessionRecord) -> bytes:
    colors = {name: color_of(name) for name in telling.lane_names(record.session)}
    return session_html(record, colors).encode()


def _show_delete(session: Session) -> None:
    with st.popover(_("Delete"), icon=":material/delete:"):
        st.markdown(_("Delete the session with all its answers and votes. This can not be undone."))
        st.button(
            _("Delete permanently"),
            type="primary",
            on_click=_delete,
            args=(session,),
            disabled=not may(Action.DELETE, owner=session.owner),
        )


def _delete(session: Session) -> None:
    with errors_as_toasts():
        resources.sessions().delete(session.id)
        go_to_list()
