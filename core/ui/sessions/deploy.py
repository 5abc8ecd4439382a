"""The second vote: the same answers with their lanes and measured figures. Which one would you deploy?"""

import streamlit as st

from core import units
from core.domain.sessions import Participant, Session, Verdict, Vote
from core.errors import LMDynoError
from core.i18n import _
from core.sessions.assignment import Assigned
from core.sessions.wording import LETTERS, LaneFigures, lane_figures
from core.ui.sessions.ballot import answer_boxes, show_prompt, texts_of
from core.ui.shared import resources
from core.ui.shared.components import lane_label, show_toast
from core.ui.shared.live_text import show_text

_FIGURES = "deploy_figures"


def show(
    session: Session, person: Participant, assigned: Assigned, vote: Vote, done: int, total: int
) -> None:
    """The item again, with what was hidden before."""
    item = session.items[assigned.item]
    st.progress(done / total, text=_("{done} of {total} second looks", done=done, total=total))
    st.markdown(
        _("Now that you know speed, memory, and energy: **which would you deploy?** Your first vote stands.")
    )
    show_prompt(session.plan.prompts.prompts[item.prompt])
    figures = _figures(session)
    lanes = [item.candidates[place].lane for place in assigned.shown]
    boxes = answer_boxes(len(lanes), serial=done)
    for box, lane, text, place in zip(boxes, lanes, texts_of(session, assigned), assigned.shown, strict=True):
        with box:
            st.markdown(lane_label(session.plan.lanes[lane].name))
            if vote.verdict is Verdict.PREFERRED and vote.order[0] == place:
                st.markdown(f":green-badge[:material/check: {_('You preferred this one')}]")
            st.caption(_described(figures[lane]))
            show_text(text, key=f"text_{place}_{done}")
    with st.bottom, st.container(horizontal=True, horizontal_alignment="center", gap="small"):
        for number, place in enumerate(assigned.shown, start=1):
            name = session.plan.lanes[item.candidates[place].lane].name
            others = tuple(other for other in assigned.shown if other != place)
            _show_button(
                f"{LETTERS[number - 1]} · {name}",
                number,
                (person, assigned, Verdict.PREFERRED, (place, *others)),
                primary=True,
            )
        _show_button(_("Any of them"), len(lanes) + 1, (person, assigned, Verdict.TIE, ()), primary=False)
        _show_button(
            _("None of them"), len(lanes) + 2, (person, assigned, Verdict.ALL_BAD, ()), primary=False
        )


def _show_button(
    label: str, number: int, args: tuple[Participant, Assigned, Verdict, tuple[int, ...]], *, primary: bool
) -> None:
    st.button(
        label,
        key=f"deploy_{number}_{args[1].item}",
        type="primary" if primary else "secondary",
        shortcut=str(number),
        on_click=_vote,
        args=args,
    )


def _vote(person: Participant, assigned: Assigned, verdict: Verdict, order: tuple[int, ...]) -> None:
    try:
        resources.votes().deploy(person.id, assigned.item, verdict, order)
    except LMDynoError as error:
        show_toast(error)


def _figures(session: Session) -> tuple[LaneFigures, ...]:
    """Medians over the session's answers, which don't change any more."""
    known: dict[str, tuple[LaneFigures, ...]] = st.session_state.setdefault(_FIGURES, {})
    if session.id not in known:
        known[session.id] = lane_figures(session, resources.sessions().answers(session.id))
    return known[session.id]


def _described(figures: LaneFigures) -> str:
    return _(
        "first token {ttft} · {speed} · memory {memory} · {energy} per token",
        ttft=units.milliseconds(figures.ttft_s),
        speed=units.tok_per_s(figures.decode_tok_per_s),
        memory=units.gib(figures.peak_memory_bytes),
        energy=units.joules(figures.energy_j_per_token),
    )
