"""A turn on the page: the prompt, how it was run, the answers, and what they show when all are done.

Answers are compared too: whether they are identical, and where they first differ.
"""

import re
from collections.abc import Callable, Sequence

import streamlit as st

from core import units
from core.charts.requests import LaneFigures, decode_speed_chart, first_token_chart
from core.domain import fairness
from core.domain.fairness import Spread, comparable, repeats
from core.domain.turns import FinishReason, RequestRecord, TurnRecord
from core.i18n import _
from core.models.context import as_seen
from core.quality.image_quiz import QuizPlan
from core.quality.paired import Agreement, Change, Piece, agreement, diff
from core.ui.chat import controls as chat_controls
from core.ui.chat import session as chat_session
from core.ui.chat.answers import RunningLane, is_long, show_lanes, standings
from core.ui.chat.controls import MODE_NAMES
from core.ui.chat.session import ConversationPage
from core.ui.shared.components import Slots, color_of, escape, lane_label, show_chart, show_images
from core.ui.shared.live_text import show_text

CHART_WIDTH_PX = 300
LONG_PROMPT_CHARS = 1_500
LONG_PROMPT_LINES = 15


def show_turn(versions: Sequence[TurnRecord], *, baseline: str | None, latest: bool) -> list[RunningLane]:
    """Draw a turn, or an earlier version of it that somebody chose; returns its lanes that still run.

    The last of the versions is the turn; the others are those that it replaces, the oldest first.
    """
    turn = _chosen(versions)
    is_expanded = turn.id in chat_session.expanded()
    with st.chat_message("user"):
        show_images(turn.images)
        _show_prompt(turn)
    with Slots("head", "lanes", "agreement", "repeats", "charts", "caveats") as slots:
        with slots.fill("head"):
            _show_head(turn, versions, is_expanded=is_expanded)
        with slots.fill("lanes"):
            running = show_lanes(turn, baseline=baseline, expanded=is_expanded)
        if turn.done and len(turn.requests) > 1:
            with slots.fill("agreement"):
                show_agreement(turn, baseline)
        runs = comparable(versions) if turn.done else []
        if len(runs) > 1 and turn is versions[-1]:
            with slots.fill("repeats"):
                _show_repeats(runs)
        if turn.done and latest:
            with slots.fill("charts"):
                _show_charts(turn, baseline)
        if turn.done:
            with slots.fill("caveats"):
                _show_caveats(turn)
    return running


def describe(turn: TurnRecord | QuizPlan) -> str:
    """The conditions of the turn: `One after another · greedy · at most 512 tokens`."""
    sampling = turn.sampling
    parts = [f"**{_(MODE_NAMES[turn.mode])}**"]
    if sampling.greedy:
        parts.append(_("greedy"))
    else:
        parts.append(
            _(
                "temperature {temperature}, top-p {top_p}, top-k {top_k}",
                temperature=f"{sampling.temperature:g}",
                top_p=f"{sampling.top_p:g}",
                top_k=sampling.top_k,
            )
        )
    if sampling.repetition_penalty != 1:
        parts.append(_("repetition penalty {value}", value=f"{sampling.repetition_penalty:g}"))
    if sampling.seed is not None:
        parts.append(_("seed {seed}", seed=sampling.seed))
    limit = units.count(sampling.max_tokens)
    parts.append(
        _("exactly {n} tokens", n=limit) if sampling.fixed_length else _("at most {n} tokens", n=limit)
    )
    if turn.system_prompt:
        parts.append(_("with a system prompt"))
    return " · ".join(parts)


def show_turn_actions(page: ConversationPage, turn: TurnRecord) -> None:
    """Regenerate, repeat and edit, for the last turn; all keep the old record in the store as a version."""
    asked = chat_controls.Asked.of(turn)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            _("Regenerate"),
            icon=":material/refresh:",
            shortcut="Alt+G",
            on_click=chat_controls.regenerate,
            args=(page, asked),
            help=_("Ask again with the current settings"),
        )
        again = st.popover(_("Repeat"), icon=":material/repeat:", key=f"repeat_{turn.id}")
        with again, st.form(chat_session.key_of("repeat_form", turn.id), border=False):
            st.number_input(
                _("More runs"),
                min_value=1,
                max_value=20,
                value=4,
                key=chat_controls.repeat_key(turn.id),
                help=_("Asked one after another with the current settings. Stops if you leave this page."),
            )
            st.form_submit_button(
                _("Start"), type="primary", on_click=chat_controls.repeat, args=(page, asked)
            )
        st.page_link(
            "pages/history.py",
            label=_("Replay"),
            icon=":material/replay:",
            query_params={"turn": turn.id, "replay": "1"},
            help=_("Shows this turn again with its original timing."),
            width="content",
        )
        edit = st.popover(_("Edit prompt"), icon=":material/edit:", key=f"edit_{turn.id}")
        with edit, st.form(chat_session.key_of("edit_form", turn.id), border=False):
            st.text_area(_("Prompt"), value=turn.prompt, key=chat_controls.edited_key(turn.id), height=160)
            st.form_submit_button(
                _("Replace and send"), type="primary", on_click=chat_controls.send_edited, args=(page, asked)
            )


def _show_prompt(turn: TurnRecord) -> None:
    """The prompt; of a long one the beginning, with the rest behind a button."""
    prompt = turn.prompt
    lines = prompt.splitlines(keepends=True)
    if len(prompt) <= LONG_PROMPT_CHARS and len(lines) <= LONG_PROMPT_LINES:
        show_text(prompt, key=f"prompt_{turn.id}")
        return
    beginning = "".join(lines[:LONG_PROMPT_LINES])[:LONG_PROMPT_CHARS].rstrip()
    show_text(f"{beginning} …", key=f"prompt_{turn.id}")
    label = _("The whole prompt ({count} characters)", count=units.count(len(prompt)))
    with st.expander(label, type="compact", on_change="rerun", key=f"whole_prompt_{turn.id}") as whole:
        if whole.open:
            show_text(prompt, key=f"whole_{turn.id}")


def _version_key(versions: Sequence[TurnRecord]) -> str:
    return f"version_{versions[-1].id}"


def _chosen(versions: Sequence[TurnRecord]) -> TurnRecord:
    """The last version while it runs."""
    chosen: int = st.session_state.get(_version_key(versions), len(versions))
    return versions[chosen - 1] if versions[-1].done else versions[-1]


def _show_repeats(runs: Sequence[TurnRecord]) -> None:
    """The spread over runs of the same prompt in the same way."""
    lanes = repeats(runs)
    st.table(
        {
            _("Lane"): [lane_label(lane.lane) for lane in lanes],
            "TTFT": [_spread(lane.ttft_s, units.milliseconds) for lane in lanes],
            _("Decode"): [_spread(lane.decode_tok_per_s, units.tok_per_s) for lane in lanes],
            "E2E": [_spread(lane.e2e_s, units.milliseconds) for lane in lanes],
        },
        border="horizontal",
        hide_index=True,
        width="content",
    )
    st.caption(_("Median and range over {n} runs of this prompt with the same settings.", n=len(runs)))


def _spread(spread: Spread | None, text: Callable[[float | None], str]) -> str:
    """`52 ms (48 ms to 61 ms, n = 5)`."""
    if spread is None:
        return units.UNKNOWN
    return _(
        "**{median}** ({low} to {high}, n = {n})",
        median=text(spread.median),
        low=text(spread.low),
        high=text(spread.high),
        n=spread.n,
    )


def _show_head(turn: TurnRecord, versions: Sequence[TurnRecord], *, is_expanded: bool) -> None:
    """The conditions of the turn, its versions, and a button for answers cut at the height of their boxes."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.caption(describe(turn), width="content")
        if len(versions) > 1 and versions[-1].done:
            st.pagination(len(versions), default=len(versions), key=_version_key(versions))
        if turn.done and is_long(turn):
            st.button(
                _("Fold answers") if is_expanded else _("Expand answers"),
                icon=":material/unfold_less:" if is_expanded else ":material/unfold_more:",
                type="tertiary",
                key=f"expand_{turn.id}",
                on_click=_toggle,
                args=(turn.id,),
                help=_("Expanded answers scroll together with the page."),
            )


def _toggle(turn_id: str) -> None:
    chat_session.expanded().symmetric_difference_update({turn_id})


def _show_charts(turn: TurnRecord, baseline: str | None) -> None:
    """First token and decode speed, each if at least two lanes have the figure."""
    compare = standings(turn.requests, baseline)
    figures = [
        LaneFigures(
            lane=record.lane.name,
            ttft_s=record.ttft_s,
            decode_tok_per_s=record.decode_tok_per_s,
            speed_ratio=compare[record.id].speed_ratio,
        )
        for record in turn.requests
        if record.id in compare
    ]
    colors = {lane.lane: color_of(lane.lane) for lane in figures}
    first = [lane for lane in figures if lane.ttft_s is not None]
    decode = [lane for lane in figures if lane.decode_tok_per_s is not None]
    with Slots("charts") as slots:
        if max(len(first), len(decode)) < 2:
            return
        with slots.fill("charts"), st.grid(2, min_column_width=CHART_WIDTH_PX):
            if len(first) > 1:
                _show_first_token(turn, first, colors)
            if len(decode) > 1:
                _show_decode(turn, decode, colors)


def _show_first_token(turn: TurnRecord, lanes: Sequence[LaneFigures], colors: dict[str, str]) -> None:
    with_images = any(record.image_count for record in turn.requests)
    values = ", ".join(f"{lane.lane} {units.milliseconds(lane.ttft_s)}" for lane in lanes)
    show_chart(
        first_token_chart(lanes, colors, with_images=with_images),
        key=f"first_token_{turn.id}",
        alt=_("Time to first token with images by lane: {values}", values=values)
        if with_images
        else _("Time to first token by lane: {values}", values=values),
    )


def _show_decode(turn: TurnRecord, lanes: Sequence[LaneFigures], colors: dict[str, str]) -> None:
    values = ", ".join(f"{lane.lane} {units.tok_per_s(lane.decode_tok_per_s)}" for lane in lanes)
    show_chart(
        decode_speed_chart(lanes, colors),
        key=f"decode_speed_{turn.id}",
        alt=_("Decode speed by lane: {values}", values=values),
    )


def _show_caveats(turn: TurnRecord) -> None:
    """Differences between lanes and deviations that weaken the figures."""
    images = as_seen(turn.requests) if turn.images else None
    flags = [flag for flag in fairness.before(turn.requests, images=images) if not flag.intended]
    flags += fairness.after(turn)
    differences = "; ".join(flag.text for flag in flags if flag.compares)
    deviations = "; ".join(flag.text for flag in flags if not flag.compares)
    with Slots("differences", "deviations", "cpu") as slots:
        if differences:
            with slots.fill("differences"):
                text = _("Differs between lanes: {differences}", differences=escape(differences))
                st.caption(f":orange[:material/balance:] {text}")
        if deviations:
            with slots.fill("deviations"):
                text = _("Not as requested: {deviations}", deviations=escape(deviations))
                st.caption(f":orange[:material/rule:] {text}")
        if any(record.device == "cpu" and record.timing for record in turn.requests):
            with slots.fill("cpu"):
                text = _("Measured on a CPU. Not comparable with GPU figures.")
                st.caption(f":material/info: {text}")


_WORD = re.compile(r"[\u2e80-\uffff]|[^\s\u2e80-\uffff]+\s*|\s+")
"""East Asian text in characters, other text in words with the space after them."""
_MOST_WORDS = 4_000
"""Words of each answer that are compared: a diff takes time with the square of it."""


def show_agreement(turn: TurnRecord, baseline: str | None) -> None:
    """One line about how the answers agree, with a way to see them side by side."""
    answers = answered(turn)
    if len(answers) < 2:
        return
    reference = next((record for record in answers if record.lane.name == baseline), answers[0])
    others = [record for record in answers if record is not reference]
    different = [record for record in others if record.text != reference.text]
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.caption(describe_agreement(reference, others), width="content")
        if different and st.button(
            _("Compare answers"), icon=":material/difference:", type="tertiary", key=f"compare_{turn.id}"
        ):
            show = st.dialog(_("Answers side by side"), width="large", icon=":material/difference:")
            show(_show_differences)(reference, different)


def answered(turn: TurnRecord) -> list[RequestRecord]:
    """The answers that ended by themselves or at the token limit: only these can be compared."""
    ends = (FinishReason.STOP, FinishReason.LENGTH)
    return [record for record in turn.requests if record.finish_reason in ends and record.text]


def describe_agreement(reference: RequestRecord, others: Sequence[RequestRecord]) -> str:
    """The first difference of each answer from the reference's, in Markdown."""
    if all(record.text == reference.text for record in others):
        return f":green-badge[:material/equal: {_('Identical answers')}]"
    parts = [_difference(reference, record) for record in others]
    return f":material/difference: {' · '.join(parts)}"


def _difference(reference: RequestRecord, record: RequestRecord) -> str:
    lane, other = escape(record.lane.name), escape(reference.lane.name)
    if record.text == reference.text:
        return _("{lane} is identical to {reference}", lane=lane, reference=other)
    same = _agreement(reference, record).prefix_tokens
    return _("{lane} parts from {reference} after {n} words", lane=lane, reference=other, n=same)


def _agreement(reference: RequestRecord, record: RequestRecord) -> Agreement:
    ids: dict[str, int] = {}
    first, second = (
        [ids.setdefault(word, len(ids)) for word in _words(text)] for text in (reference.text, record.text)
    )
    return agreement(first, second)


def _words(text: str) -> list[str]:
    return _WORD.findall(text)


def _show_differences(reference: RequestRecord, others: Sequence[RequestRecord]) -> None:
    names = [record.lane.name for record in others]
    chosen = names[0]
    if len(names) > 1:
        chosen = st.segmented_control(
            _("Compare with {lane}", lane=escape(reference.lane.name)),
            names,
            default=names[0],
            required=True,
            key=f"compared_lane_{reference.id}",
        )
    other = next(record for record in others if record.lane.name == chosen)
    words, other_words = _words(reference.text), _words(other.text)
    if max(len(words), len(other_words)) > _MOST_WORDS:
        st.caption(_("Only the first {n} words of each answer are compared.", n=_MOST_WORDS))
    pieces = diff(words[:_MOST_WORDS], other_words[:_MOST_WORDS])
    left, right = st.columns(2)
    for place, record, own in ((left, reference, Change.ONLY_REFERENCE), (right, other, Change.ONLY_LANE)):
        with place:
            st.markdown(lane_label(record.lane.name))
            with st.container(border=True):
                st.markdown(_marked(pieces, own))


def _marked(pieces: Sequence[Piece], own: Change) -> str:
    """One answer's text with what only it says marked."""
    parts = []
    for piece in pieces:
        if piece.change is Change.SAME:
            parts.append(escape(piece.text))
        elif piece.change is own:
            parts += [_background(line) for line in re.split(r"(\s*\n\s*)", piece.text)]
    return "".join(parts).replace("\n", "  \n")


def _background(text: str) -> str:
    """The text marked; a break between lines stays one."""
    inner = text.strip()
    return f":orange-background[{escape(inner)}]{' ' if text[-1].isspace() else ''}" if inner else text
