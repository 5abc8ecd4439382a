"""The walk: start it, watch its steps come, and find its report; its steps, wherever a page shows them."""

import streamlit as st

from core import units
from core.access.guard import Action
from core.domain.runs import HistoryFilter, RunKind
from core.domain.specs import Weights
from core.domain.walk import STATE_NAMES, STEP_TEXTS, StepResult, StepState, WalkRun
from core.errors import LMDynoError
from core.i18n import N_, _
from core.jobs.registry import Jobs, JobState, JobStatus
from core.models.vision import is_for_images
from core.ui.shared import resources
from core.ui.shared.components import escape, prose, show_error
from core.ui.shared.jobs import choose_node, is_usable, show_job, show_job_log
from core.ui.shared.visitor import offers
from core.walk.job import JOB_KIND, lanes_at, load, start_walk, summary

_REFRESH_S = 1.0
_SHOWN = 5
_STOP = N_("Stop the walk")

_ICONS = {
    StepState.DONE: ":green[:material/check_circle:]",
    StepState.SKIPPED: ":gray[:material/do_not_disturb_on:]",
    StepState.FAILED: ":red[:material/error:]",
}
_FIGURE_COLUMNS = 3


def show_section() -> None:
    """An explanation, the button that starts a walk, the running one, and earlier ones. Raises StoreError."""
    st.markdown(
        _(
            "Takes the tutorial's steps, one after another, and writes a report: chat with transformers, "
            "TurboMind, and AWQ weights, KV cache ratios, quantisation, the API server, the Python pipeline, "
            "and an image question. Steps that can't run on the machine are skipped with the reason. Takes 4 "
            "to 10 minutes, and keeps running if you leave this page."
        )
    )
    if offers(Action.START_JOB):
        _show_start()
    _show_current()
    _show_earlier()


def _show_start() -> None:
    node = choose_node("walk_node")
    names = _models(node)
    if not names:
        st.info(_("No local lane has a text model."), icon=":material/info:")
        return
    with st.form("walk_form", border=False), st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.selectbox(_("Model"), names, width=320)
        started = st.form_submit_button(_("Start the walk"), type="primary", icon=":material/play_arrow:")
    if started and is_usable(node):
        try:
            start_walk(resources.settings(), name, node=node)
        except LMDynoError as error:
            show_error(error)


def _models(node: str | None) -> list[str]:
    """Text models that a lane of that machine serves from their checkpoint."""
    return list(
        dict.fromkeys(
            lane.model.name
            for lane in lanes_at(resources.lanes(), node)
            if lane.model and lane.weights is Weights.CHECKPOINT and not is_for_images(lane)
        )
    )


@st.fragment(run_every=_REFRESH_S)
def _show_current() -> None:
    """The walks that run, on one machine each, or the newest one, with their steps; refreshes itself."""
    statuses = Jobs(resources.settings()).statuses(JOB_KIND)
    for status in [status for status in statuses if not status.state.ended] or statuses[:1]:
        with st.container(border=True):
            show_job(status, end=_STOP, show_detail=_show_taken)
            show_job_log(status)


def _show_taken(status: JobStatus) -> None:
    try:
        run = load(resources.settings(), status.id)
    except LMDynoError as error:
        show_error(error)
        return
    if run is None:
        return
    if status.state is JobState.DONE:
        show_steps(run)
        return
    for number, step in enumerate(run.steps, start=1):
        show_step(number, step)


def _show_earlier() -> None:
    entries = resources.history().entries(HistoryFilter(kind=RunKind.WALK), limit=_SHOWN)
    if not entries:
        return
    st.subheader(_("Reports"), anchor=False)
    for entry in entries:
        st.page_link(
            "pages/history.py",
            label=f"{escape(_(entry.title))} · {entry.created_at:%Y-%m-%d %H:%M} UTC"
            f" · {escape(entry.host or units.UNKNOWN)}",
            icon=":material/description:",
            query_params={"walk": entry.id},
        )


def show_steps(run: WalkRun) -> None:
    """Every step that was taken, in its order, and a sentence about all of them."""
    for number, step in enumerate(run.steps, start=1):
        show_step(number, step)
    st.caption(f"{summary(run)} · {units.duration(run.duration_s)}")


def step_title(number: int, step: StepResult) -> str:
    """Such as `3. Chat with TurboMind`, in Markdown."""
    return escape(_("{number}. {step}", number=number, step=_(STEP_TEXTS[step.kind].title)))


def show_step(number: int, step: StepResult) -> None:
    """One step with all that it found out; what is long is behind a click."""
    with st.container(border=True, gap="small"):
        took = units.duration(step.duration_s) if step.duration_s else _(STATE_NAMES[step.state])
        st.markdown(f"{_ICONS[step.state]} **{step_title(number, step)}** · {escape(took)}")
        if step.reason:
            st.caption(prose(_(step.reason)))
        if step.error:
            show_error(step.error)
        if step.figures:
            show_figures(step)
        if step.notes:
            st.caption("  \n".join(prose(_(note)) for note in step.notes))
        if step.answers or step.by_hand:
            with st.expander(_("Answers and command"), type="compact", icon=":material/terminal:"):
                st.caption(prose(_(STEP_TEXTS[step.kind].meaning)))
                for answer in step.answers:
                    st.markdown(f"**{escape(_(answer.who))}** · {escape(answer.prompt)}")
                    st.text(answer.text)
                if step.by_hand:
                    st.code(step.by_hand, language=None, wrap_lines=True)


def show_figures(step: StepResult) -> None:
    """The step's numbers as a table of a few columns, read row by row."""
    cells = [f"{escape(_(figure.label))}: **{escape(figure.text)}**" for figure in step.figures]
    with st.grid(_FIGURE_COLUMNS, min_column_width=220) as grid:
        for cell in cells:
            with grid.cell():
                st.markdown(f":small[{cell}]")
