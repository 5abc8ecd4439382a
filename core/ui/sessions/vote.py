"""The page behind a voting link: joining, one item to vote on, and the second vote.

The address holds the voter: `session` is the secret of the voting link, `seat` the code of whoever joined, so
that a reload goes on where it was.

Nothing in the first vote may differ by lane but the answers' text: boxes, keys and names go by position, all
answers come at once or at one pace, and figures and reasoning stay away. The second vote shows the same
answers with their lanes and measured figures: which one would you deploy?
"""

from collections.abc import Sequence
from time import monotonic, sleep

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core import units
from core.access.guard import current_identity
from core.domain.sessions import Display, Participant, Session, SessionPrompt, Verdict, Vote
from core.errors import InputError, LMDynoError
from core.i18n import N_, _
from core.sessions.items import Assigned, require_invited
from core.sessions.telling import LETTERS, REASON_NAMES, LaneFigures
from core.store.sessions import LONGEST_NAME
from core.ui.sessions.results import current_figures
from core.ui.shared import resources
from core.ui.shared.components import errors_as_toasts, escape, lane_label, show_error, show_images
from core.ui.shared.live_text import LiveText, show_text
from core.ui.shared.visitor import VOTING_LINK

SEAT = "seat"
_SHOWN = "voter_shown"

_NAME = "join_name"
_CODE = "join_code"

ANSWER_HEIGHT_PX = 380
ANSWER_WIDTH_PX = 300
_LEAST_VIEW_S = 0.4
"""A vote that comes sooner after the item was shown is the end of a double click on the one before."""
_TICK_S = 0.1
_RANKED = "ballot_ranked"


def session_in_view() -> Session | None:
    """The session whose voting link is in the address; None if there is none. Raises StoreError."""
    link = st.query_params.get(VOTING_LINK, "")
    return resources.sessions().session_of_link(link) if link else None


def current_participant(session: Session) -> Participant | None:
    """The voter, by the code in the address; None before joining. Raises StoreError."""
    code = st.query_params.get(SEAT, "")
    person = resources.votes().participant(session.id, code) if code else None
    user = current_identity().owner
    # A code of somebody else who signed in opens nothing to others.
    return person if person is None or person.user in (None, user) else None


def take_seat(person: Participant) -> None:
    st.query_params[SEAT] = person.code


def shown_s(item: int) -> float:
    """Seconds since this item came into view in this browser session; starts with the first call."""
    shown: tuple[int, float] | None = st.session_state.get(_SHOWN)
    if shown is None or shown[0] != item:
        shown = (item, monotonic())
        st.session_state[_SHOWN] = shown
    return monotonic() - shown[1]


def forget_shown() -> None:
    """The next look at an item counts as its first."""
    st.session_state.pop(_SHOWN, None)


def tick() -> None:
    """A yield point that sends nothing: Streamlit ends a superseded run at any access to session state."""
    st.session_state.get(_SHOWN)


def show_join(session: Session) -> None:
    """Ask for a name; who is signed in is asked for none."""
    identity = current_identity()
    if session.plan.purpose:
        st.text(session.plan.purpose)
    st.markdown(
        _(
            "You see answers from different models to the same prompts without knowing which model wrote "
            "which answer. Say which one is better. Take your time, and trust your own judgement."
        )
    )
    if identity.owner is not None:
        _take_part(session, identity.name, identity.owner)
        return
    with st.form("join", border=True, width=420):
        name = st.text_input(_("Your name or a nickname"), max_chars=LONGEST_NAME, key=_NAME)
        if st.form_submit_button(_("Join"), type="primary", icon=":material/how_to_vote:"):
            _take_part(session, name, None)
    with st.expander(_("I started on another device"), icon=":material/devices:"), st.form("resume"):
        code = st.text_input(_("Your code"), key=_CODE, help=_("It is shown next to your votes."))
        if st.form_submit_button(_("Continue")):
            _resume(session, code)


def _take_part(session: Session, name: str, user: str | None) -> None:
    try:
        require_invited(session.plan, current_identity(), name)
        take_seat(resources.votes().join(session.id, name, user=user))
    except LMDynoError as error:
        show_error(error)
        return
    st.rerun()


def _resume(session: Session, code: str) -> None:
    person = resources.votes().participant(session.id, code)
    if person is None or person.user is not None:
        show_error(
            InputError(
                N_("No participant of this session has this code."),
                hint=N_("Check it, or join with a name."),
                code="no-such-code",
            )
        )
        return
    take_seat(person)
    st.rerun()


def show_ballot(session: Session, person: Participant, assigned: Assigned, *, done: int, total: int) -> None:
    """The item, with everything that can be done about it."""
    item = session.items[assigned.item]
    elapsed_s = shown_s(assigned.item)
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
        tick()
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
    rest = [other for other in assigned.shown if other not in ranked]
    if len(rest) <= 1:  # none if the vote couldn't be kept before
        _vote(session, person, assigned, Verdict.PREFERRED, (*ranked, *rest), serial)


def _vote(
    session: Session,
    person: Participant,
    assigned: Assigned,
    verdict: Verdict,
    order: tuple[int, ...],
    serial: int,
) -> None:
    took_s = shown_s(assigned.item)
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
    with errors_as_toasts():
        resources.votes().vote(session.id, vote)


def _undo(person: Participant) -> None:
    forget_shown()
    for key in [key for key in st.session_state if str(key).startswith(_RANKED)]:
        del st.session_state[key]
    with errors_as_toasts():
        resources.votes().undo(person.id)


def _reasons_key(serial: int) -> str:
    return f"ballot_reasons_{serial}"


def _comment_key(serial: int) -> str:
    return f"ballot_comment_{serial}"


def show_deploy_vote(
    session: Session, person: Participant, assigned: Assigned, vote: Vote, done: int, total: int
) -> None:
    """The item again, with what was hidden before."""
    item = session.items[assigned.item]
    st.progress(done / total, text=_("{done} of {total} second looks", done=done, total=total))
    st.markdown(
        _("Now that you know speed, memory, and energy: **which would you deploy?** Your first vote stands.")
    )
    show_prompt(session.plan.prompts.prompts[item.prompt])
    figures = current_figures(session)
    lanes = [item.candidates[place].lane for place in assigned.shown]
    boxes = answer_boxes(len(lanes), serial=done)
    for box, lane, text, place in zip(boxes, lanes, texts_of(session, assigned), assigned.shown, strict=True):
        with box:
            st.markdown(lane_label(session.plan.lanes[lane].name))
            if vote.verdict is Verdict.PREFERRED and vote.order[0] == place:
                st.markdown(f":green-badge[:material/check: {_('You preferred this one')}]")
            st.caption(_figures_text(figures[lane]))
            show_text(text, key=f"text_{place}_{done}")
    with st.bottom, st.container(horizontal=True, horizontal_alignment="center", gap="small"):
        for number, place in enumerate(assigned.shown, start=1):
            name = session.plan.lanes[item.candidates[place].lane].name
            others = tuple(other for other in assigned.shown if other != place)
            _show_deploy_button(
                f"{LETTERS[number - 1]} · {name}",
                number,
                (person, assigned, Verdict.PREFERRED, (place, *others)),
                primary=True,
            )
        _show_deploy_button(
            _("Any of them"), len(lanes) + 1, (person, assigned, Verdict.TIE, ()), primary=False
        )
        _show_deploy_button(
            _("None of them"), len(lanes) + 2, (person, assigned, Verdict.ALL_BAD, ()), primary=False
        )


def _show_deploy_button(
    label: str, number: int, args: tuple[Participant, Assigned, Verdict, tuple[int, ...]], *, primary: bool
) -> None:
    st.button(
        label,
        key=f"deploy_{number}_{args[1].item}",
        type="primary" if primary else "secondary",
        shortcut=str(number),
        on_click=_deploy,
        args=args,
    )


def _deploy(person: Participant, assigned: Assigned, verdict: Verdict, order: tuple[int, ...]) -> None:
    with errors_as_toasts():
        resources.votes().deploy(person.id, assigned.item, verdict, order)


def _figures_text(figures: LaneFigures) -> str:
    return _(
        "first token {ttft} · {speed} · memory {memory} · {energy} per token",
        ttft=units.milliseconds(figures.ttft_s),
        speed=units.tok_per_s(figures.decode_tok_per_s),
        memory=units.gib(figures.peak_memory_bytes),
        energy=units.joules(figures.energy_j_per_token),
    )
