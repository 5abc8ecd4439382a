"""A walk's steps on a page: title, state and time, figures, answers, and how to do the same by hand."""

import streamlit as st

from core import units
from core.domain.walk import StepResult, StepState, WalkRun
from core.i18n import _
from core.ui.shared.components import escape, prose, show_error
from core.walk.runner import summary
from core.walk.wording import STATE_NAMES, STEP_TEXTS

_ICONS = {
    StepState.DONE: ":green[:material/check_circle:]",
    StepState.SKIPPED: ":gray[:material/do_not_disturb_on:]",
    StepState.FAILED: ":red[:material/error:]",
}
_FIGURE_COLUMNS = 3


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
