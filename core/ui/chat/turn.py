"""A turn on the page: the prompt, how it was run, the answers, and what they show when all are done."""

import streamlit as st

from core import units
from core.charts.turn import decode_speed_chart, first_token_chart
from core.domain import fairness
from core.domain.turns import TurnRecord
from core.i18n import _
from core.image_quiz.plan import QuizPlan
from core.models.vision.context import as_seen
from core.ui.chat import actions as chat_actions
from core.ui.chat.answers import RunningLane, show_lanes
from core.ui.chat.conversation_page import ConversationPage
from core.ui.chat.figures import lane_figures, standings
from core.ui.chat.settings import MODE_NAMES
from core.ui.shared.components import color_of, escape
from core.ui.shared.image_views import show_images
from core.ui.text.live_text import show_text

CHART_WIDTH_PX = 300


def show_turn(turn: TurnRecord, *, baseline: str | None, latest: bool) -> list[RunningLane]:
    """Draw a turn; returns its lanes that still run.

    Every part has its fixed place: what a place is not used for is emptied, or else the browser would go on
    showing what the run before had there, until this run ends.
    """
    with st.chat_message("user"):
        show_images(turn.images)
        show_text(turn.prompt, key=f"prompt_{turn.id}")
    st.caption(describe(turn))
    running = show_lanes(turn, baseline=baseline, latest=latest)
    if not turn.done:
        st.empty()
        return running
    with st.container():
        if latest:
            _show_chart(turn, baseline)
        else:
            st.empty()
        _show_caveats(turn)
    return running


def describe(turn: TurnRecord | QuizPlan) -> str:
    """How the turn was run: `One after another · greedy · at most 512 tokens`."""
    sampling = turn.sampling
    parts = [f"**{MODE_NAMES[turn.mode]}**"]
    if sampling.greedy:
        parts.append("greedy")
    else:
        parts.append(
            f"temperature {sampling.temperature:g}, top-p {sampling.top_p:g}, top-k {sampling.top_k}"
        )
    if sampling.repetition_penalty != 1:
        parts.append(f"repetition penalty {sampling.repetition_penalty:g}")
    if sampling.seed is not None:
        parts.append(f"seed {sampling.seed}")
    limit = "exactly" if sampling.fixed_length else "at most"
    parts.append(f"{limit} {units.count(sampling.max_tokens)} tokens")
    if turn.system_prompt:
        parts.append("with a system prompt")
    return " · ".join(parts)


def show_turn_actions(page: ConversationPage, turn: TurnRecord) -> None:
    """Regenerate and edit, for the last turn of a conversation; both keep the old record in the store."""
    with st.container(horizontal=True):
        st.button(
            "Regenerate",
            icon=":material/refresh:",
            shortcut="Alt+G",
            on_click=chat_actions.regenerate,
            args=(page, turn),
            help="Ask the same again, with the settings of the moment",
        )
        edit = st.popover("Edit prompt", icon=":material/edit:", key=f"edit_{turn.id}")
        with edit, st.form(f"edit_form_{turn.id}", border=False):
            st.text_area("Prompt", value=turn.prompt, key=chat_actions.edited_key(turn), height=160)
            st.form_submit_button(
                "Send instead", type="primary", on_click=chat_actions.send_edited, args=(page, turn)
            )


def _show_chart(turn: TurnRecord, baseline: str | None) -> None:
    compare = standings(turn.requests, baseline)
    figures = [
        lane_figures(record, compare[record.id])
        for record in turn.requests
        if record.id in compare and record.ttft_s is not None
    ]
    if not figures:
        st.empty()
        return
    colors = {lane.lane: color_of(lane.lane) for lane in figures}
    first = ", ".join(f"{lane.lane} {units.milliseconds(lane.ttft_s)}" for lane in figures)
    decode = ", ".join(f"{lane.lane} {units.tok_per_s(lane.decode_tok_per_s)}" for lane in figures)
    with_images = any(record.image_count for record in turn.requests)
    quiet = {"displayModeBar": False}
    with st.grid(2, min_column_width=CHART_WIDTH_PX):
        st.plotly_chart(
            first_token_chart(figures, colors, with_images=with_images),
            key=f"first_token_{turn.id}",
            config=quiet,
            alt=f"Time to first token{' with images' if with_images else ''} by lane: {first}",
        )
        st.plotly_chart(
            decode_speed_chart(figures, colors),
            key=f"decode_speed_{turn.id}",
            config=quiet,
            alt=f"Decode speed by lane: {decode}",
        )


def _show_caveats(turn: TurnRecord) -> None:
    """What a reader of the figures must know."""
    images = as_seen(turn.requests) if turn.images else None
    flags = [flag for flag in fairness.before(turn.requests, images=images) if not flag.intended]
    flags += fairness.after(turn)
    if differences := [flag.text for flag in flags if flag.compares]:
        text = _("Differs between lanes: {differences}", differences=escape("; ".join(differences)))
        st.caption(f":orange[:material/balance:] {text}")
    if deviations := [flag.text for flag in flags if not flag.compares]:
        text = _("Not as requested: {deviations}", deviations=escape("; ".join(deviations)))
        st.caption(f":orange[:material/rule:] {text}")
    if any(record.device == "cpu" and record.timing for record in turn.requests):
        st.caption(f":material/info: {_('Measured on a CPU. Not comparable with GPU figures.')}")
