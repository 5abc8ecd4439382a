"""One item to vote on: the prompt, the answers without any sign of their lanes, and the buttons.

Nothing here may differ by lane but the answers' text: boxes, keys and names go by position, all answers come
at once or at one pace, and figures and reasoning stay away.
"""

from collections.abc import Sequence
from time import monotonic, sleep

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core.domain.sessions import Display, Participant, Session, SessionPrompt, Verdict, Vote
from core.errors import LMDynoError
from core.i18n import _
from core.sessions.assignment import Assigned
from core.sessions.wording import LETTERS, REASON_NAMES
from core.ui.sessions import voter
from core.ui.shared import resources
from core.ui.shared.components import escape, show_toast
from core.ui.shared.images import show_images
from core.ui.shared.live_text import LiveText, show_text

ANSWER_HEIGHT_PX = 380
ANSWER_WIDTH_PX = 300
_LEAST_VIEW_S = 0.4
"""A vote that comes sooner after the item was shown is the end of a double click on the one before."""
_TICK_S = 0.1
_RANKED = "ballot_ranked"


def show(session: Session, person: Participant, assigned: Assigned, *, done: int, total: int) -> None:
    """The item, with everything that can be done about it."""
    item = session.items[assigned.item]
    elapsed_s = voter.shown_s(assigned.item)
    st.progress(done / total, text=_("{done} of {total} votes given", done=done, total=total))
    show_prompt(session.plan.prompts.prompts[item.prompt])
    texts = texts_of(session, assigned)
    boxes = answer_boxes(len(texts), serial=done)
    _show_remarks(person, serial=done)
    with st.bottom:
        _show_buttons(session, person, assigned, serial=done)
    if session.plan.display is Display.REPLAYED:
        _replay(boxes, texts, session.plan.replay_chars_per_s, elapsed_s)
    else:
        for letter, box, text in zip(LETTERS, boxes, texts, strict=False):
            with box:
                show_text(text, key=f"text_{letter}_{done}")


def show_prompt(prompt: SessionPrompt) -> None:
    with st.chat_message("user"):
        show_images(prompt.images, width_px=220)
        show_text(prompt.text, key="ballot_prompt")


def texts_of(session: Session, assigned: Assigned) -> list[str]:
    """The texts of the answers from left to right."""
    item = session.items[assigned.item]
    candidates = [item.candidates[place] for place in assigned.shown]
    answers = resources.sessions().answers_to(session.id, item.prompt, candidates)
    return [answer.record.text for answer in answers]


def answer_boxes(number: int, *, serial: int) -> list[DeltaGenerator]:
    """Boxes of one size, named by position."""
    boxes = []
    with st.grid(number if number < 4 else 2, min_column_width=ANSWER_WIDTH_PX) as grid:
        for letter in LETTERS[:number]:
            with grid.cell():
                st.markdown(f"**{letter}**")
                boxes.append(
                    st.container(
                        height=ANSWER_HEIGHT_PX,
                        border=True,
                        autoscroll=False,
                        key=f"answer_{letter}_{serial}",
                    )
                )
    return boxes


def show_undo(person: Participant, *, disabled: bool = False) -> None:
    st.button(
        _("Undo"),
        shortcut="6",
        on_click=_undo,
        args=(person,),
        disabled=disabled,
        help=_("Take back your last vote"),
    )


def _replay(
    boxes: Sequence[DeltaGenerator], texts: Sequence[str], chars_per_s: int, elapsed_s: float
) -> None:
    """Let all texts grow at the same pace, from where they are; a rerun goes on without a jump."""
    lives = []
    for box in boxes:
        with box:
            lives.append(LiveText())
    begun, shown = monotonic() - elapsed_s, 0
    longest = max(map(len, texts))
    while shown < longest:
        due = min(longest, int((monotonic() - begun) * chars_per_s))
        for live, text in zip(lives, texts, strict=True):
            live.append(text[shown:due])
            live.draw(final=due >= longest)
        shown = due
        voter.tick()
        if shown < longest:
            sleep(_TICK_S)


def _show_buttons(session: Session, person: Participant, assigned: Assigned, *, serial: int) -> None:
    """Only the buttons needed to vote: they cover part of a phone's screen."""
    with st.container(horizontal=True, horizontal_alignment="center", gap="small"):
        if len(assigned.shown) == 2:
            _show_pair_buttons(session, person, assigned, serial)
        else:
            _show_rank_buttons(session, person, assigned, serial)
        show_undo(person, disabled=serial == 0)


def _show_remarks(person: Participant, *, serial: int) -> None:
    """Reasons and a comment for the vote to come, and who votes."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.pills(
            _("Why? (optional)"),
            list(REASON_NAMES),
            format_func=lambda reason: _(REASON_NAMES[reason]),
            selection_mode="multi",
            key=_reasons_key(serial),
            on_change="ignore",
            width="content",
            wrap=True,
        )
        with st.popover(_("Comment"), icon=":material/comment:", key=f"ballot_comment_box_{serial}"):
            st.text_area(
                _("Comment"),
                key=_comment_key(serial),
                max_chars=2000,
                on_change="ignore",
                help=_("Stored with your vote. Press Ctrl+Enter before you vote."),
            )
    st.caption(
        _(
            "You vote as {name}. To continue on another device, enter your code there: {code}",
            name=escape(person.name),
            code=person.code,
        )
    )


def _show_pair_buttons(session: Session, person: Participant, assigned: Assigned, serial: int) -> None:
    left, right = assigned.shown
    choices = (
        (_("A is better"), Verdict.PREFERRED, (left, right)),
        (_("Tie"), Verdict.TIE, ()),
        (_("B is better"), Verdict.PREFERRED, (right, left)),
        (_("Both bad"), Verdict.ALL_BAD, ()),
        (_("Skip"), Verdict.SKIPPED, ()),
    )
    for number, (label, verdict, order) in enumerate(choices, start=1):
        st.button(
            label,
            key=f"ballot_{number}_{serial}",
            type="primary" if verdict is Verdict.PREFERRED else "secondary",
            shortcut=str(number),
            on_click=_vote,
            args=(session, person, assigned, verdict, order, serial),
        )


def _show_rank_buttons(session: Session, person: Participant, assigned: Assigned, serial: int) -> None:
    """One click for each answer, the best first; the last one follows by itself."""
    ranked: list[int] = st.session_state.setdefault(f"{_RANKED}_{serial}", [])
    for number, place in enumerate(assigned.shown):
        is_ranked = place in ranked
        st.button(
            f"{LETTERS[number]} · {ranked.index(place) + 1}." if is_ranked else LETTERS[number],
            key=f"ballot_rank_{number}_{serial}",
            type="secondary" if is_ranked else "primary",
            disabled=is_ranked,
            shortcut=str(number + 1),
            help=_("Choose the answers from the best to the worst"),
            on_click=_rank,
            args=(session, person, assigned, place, serial),
        )
    rest = (
        (_("All equal"), Verdict.TIE, "Q"),
        (_("All bad"), Verdict.ALL_BAD, "W"),
        (_("Skip"), Verdict.SKIPPED, "5"),
    )
    for label, verdict, key in rest:
        st.button(
            label,
            key=f"ballot_{verdict}_{serial}",
            shortcut=key,
            on_click=_vote,
            args=(session, person, assigned, verdict, (), serial),
        )
    if ranked:
        st.button(_("Start over"), shortcut="E", key=f"ballot_again_{serial}", on_click=ranked.clear)


def _rank(session: Session, person: Participant, assigned: Assigned, place: int, serial: int) -> None:
    ranked: list[int] = st.session_state[f"{_RANKED}_{serial}"]
    if place not in ranked:
        ranked.append(place)
    if len(ranked) == len(assigned.shown) - 1:
        last = next(other for other in assigned.shown if other not in ranked)
        _vote(session, person, assigned, Verdict.PREFERRED, (*ranked, last), serial)


def _vote(
    session: Session,
    person: Participant,
    assigned: Assigned,
    verdict: Verdict,
    order: tuple[int, ...],
    serial: int,
) -> None:
    took_s = voter.shown_s(assigned.item)
    if took_s < _LEAST_VIEW_S:
        return
    skipped = verdict is Verdict.SKIPPED
    vote = Vote(
        participant_id=person.id,
        item=assigned.item,
        shown=assigned.shown,
        verdict=verdict,
        order=order,
        reasons=() if skipped else tuple(st.session_state.get(_reasons_key(serial)) or ()),
        comment="" if skipped else (st.session_state.get(_comment_key(serial)) or "").strip(),
        took_s=took_s,
    )
    try:
        resources.votes().vote(session.id, vote)
    except LMDynoError as error:
        show_toast(error)


def _undo(person: Participant) -> None:
    voter.forget_shown()
    for key in [key for key in st.session_state if str(key).startswith(_RANKED)]:
        del st.session_state[key]
    try:
        resources.votes().undo(person.id)
    except LMDynoError as error:
        show_toast(error)


def _reasons_key(serial: int) -> str:
    return f"ballot_reasons_{serial}"


def _comment_key(serial: int) -> str:
    return f"ballot_comment_{serial}"
