"""A page that holds a conversation: the chat's and the vision page's, by the same code.

What is drawn where has a fixed place (`Slots`), so that nothing of an earlier run stays while answers come.
For a room the page shows the last turn alone: a tile for each lane with its figures, and while it streams how
far it is.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from datetime import datetime

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core import units
from core.access.guard import Action, may
from core.domain.conversation import EXAMPLES
from core.domain.specs import LaneSpec
from core.domain.turns import ErrorInfo, Phase, RequestRecord, TurnRecord, utc_now
from core.i18n import N_, Text, _, ngettext
from core.images.gallery import GalleryImage, gallery
from core.ui.chat import controls as chat_controls
from core.ui.chat import images as chat_images
from core.ui.chat import session as chat_session
from core.ui.chat.answers import RunningLane, wait_until_done
from core.ui.chat.images import (
    add_from_gallery,
    needs_preparing,
    origin,
    show_limits,
    show_no_lanes,
    show_preparing,
    show_refused,
)
from core.ui.chat.session import VISION, ChatState, Conversation, ConversationPage
from core.ui.chat.turn import show_turn, show_turn_actions
from core.ui.engines.status import show_cards
from core.ui.shared import browser, resources
from core.ui.shared.components import Slots, color_of, escape, show_error, show_warning
from core.ui.shared.presenting import Tile, present, presents, show_board, show_present_button
from core.ui.shared.visitor import is_mine

_NEWS_S = 2.0
"""How soon a page shows what was asked in another tab."""

_SCENES = 4
_SCENE_PX = 180


def show(page: ConversationPage, place: DeltaGenerator | None = None) -> None:
    """Draw the page's conversation, with its sidebar and its prompt; follows what still runs.

    `place` is where the conversation itself goes.
    """
    registry = resources.lanes()
    offered = page.offered(registry.lanes)
    chat = chat_session.chat(page)
    conversation = chat_session.load(chat)
    turns = conversation.turns
    if not page.takes_images and any(turn.images for turn in turns):
        _move_to_vision(page, chat.conversation_id)
    if turns:
        chat_session.show_address(chat.conversation_id)
    if presents():
        _present(page, offered, conversation)
        return
    if not offered:
        with place or nullcontext():
            show_no_lanes(registry.lanes)
        return
    chat_controls.prepare(page, offered, turns[-1] if turns else None)
    with st.sidebar:
        _show_sidebar(page, offered)
    with st.bottom:
        _show_prompt(page, conversation)
    with place or nullcontext():
        _show_conversation(page, conversation)


def _present(page: ConversationPage, offered: Sequence[LaneSpec], conversation: Conversation) -> None:
    """The last turn for a room, with the prompt below it."""
    if offered:
        chat_controls.prepare(page, offered, conversation.turns[-1] if conversation.turns else None)
        with st.bottom:
            _show_prompt(page, conversation)
    chat = chat_session.chat(page)
    is_running = bool(conversation.running)

    def draw() -> None:
        now = chat_session.load(chat)
        show_turn_board(now)
        if bool(now.running) != is_running:
            st.rerun()  # prompt and Stop are outside of what refreshes itself

    # While answers come, Esc stops them.
    present(draw, refresh_s=BOARD_REFRESH_S, escape_ends=not is_running)


def _move_to_vision(page: ConversationPage, conversation_id: str) -> None:
    """Open a conversation with images where they can be seen; this page begins a new one."""
    chat_session.new_conversation(page)
    st.switch_page(VISION.file, query_params={chat_session.CONVERSATION: conversation_id})


def _show_sidebar(page: ConversationPage, offered: Sequence[LaneSpec]) -> None:
    """The settings of the next turn, and the way to other conversations."""
    st.button(
        _("New conversation"),
        icon=":material/edit_square:",
        width="stretch",
        shortcut="Alt+N",
        on_click=chat_session.new_conversation,
        args=(page,),
    )
    chat_controls.show(page, offered)
    show_present_button()
    if page.takes_images:
        show_refused(resources.lanes().lanes)
    with st.expander(_("Recent conversations"), icon=":material/history:"):
        for summary in chat_session.recent(page):
            st.button(
                escape(summary.title),
                key=chat_session.key_of("open", summary.id),
                type="tertiary",
                disabled=summary.id == chat_session.chat(page).conversation_id,
                on_click=chat_session.open_conversation,
                args=(page, summary.id),
            )
    browser.focus_prompt_by_key()


def _show_prompt(page: ConversationPage, conversation: Conversation) -> None:
    """Prompt and Stop, there before any lane streams; with images the attachments above them.

    The prompt stays open meanwhile: a disabled one loses the focus, and `submit_mode="disable"` can stay
    disabled for good when a fragment's run ends right after the script's. It stands in a container, since for
    one in the page's own body Streamlit keeps the page scrolled to its end, away from the answers' beginning.
    """
    stoppable = [turn.id for turn in conversation.running if may(Action.STOP_ANSWER, owner=turn.owner)]
    with Slots("stop", "attachments", "prompt") as slots:
        if stoppable:
            with slots.fill("stop"), st.container(horizontal=True, vertical_alignment="center"):
                st.button(
                    _("Stop"),
                    icon=":material/stop_circle:",
                    type="primary",
                    shortcut="Esc",
                    on_click=chat_controls.stop,
                    args=(page, stoppable),
                    help=_("Ends all lanes; the text so far is kept"),
                )
                if left := chat_session.chat(page).repeats_left:
                    st.caption(ngettext("{n} more run follows", "{n} more runs follow", left))
        if page.takes_images:
            with slots.fill("attachments"):
                _show_attachments(page, conversation)
        with slots.fill("prompt"):
            st.chat_input(
                _("Answering…") if conversation.running else _(page.invitation),
                key=page.key("prompt"),
                accept_file="multiple" if page.takes_images else False,
                file_type="image" if page.takes_images else None,
                on_submit=chat_controls.submit,
                args=(page,),
            )


def _show_attachments(page: ConversationPage, conversation: Conversation) -> None:
    with Slots("images", "ways") as slots:
        with slots.fill("images"):
            chat_images.show_images(page)
        if conversation.running:  # a dialog would not open before the answers' end
            return
        with slots.fill("ways"):
            turns = conversation.turns
            picked = chat_controls.picked_lanes(page, resources.lanes().lanes)
            chat_images.show_ways_to_add(page, picked, turns)
            images = [image for turn in turns for image in turn.images]
            show_limits(picked, [*images, *chat_session.chat(page).attachments])


def _show_conversation(page: ConversationPage, conversation: Conversation) -> None:
    turns = conversation.turns
    with Slots("closed", "welcome", "turns", "scroll", "warning", "problems", "news", "actions") as slots:
        if (closed := chat_session.chat(page).closed) and not turns:
            with slots.fill("closed"):
                show_warning(closed)
        if not turns:
            with slots.fill("welcome"):
                _show_welcome(page)
        with slots.fill("turns"):
            running = _show_turns(page, turns)
        if turns:
            with slots.fill("scroll"):
                browser.scroll_to(f"turn_{turns[-1].id}")
        if warning := chat_session.chat(page).warning:
            with slots.fill("warning"):
                show_warning(warning)
        problems = _problems(page, conversation)
        if problems:
            with slots.fill("problems"):
                for problem in problems:
                    show_error(problem)
        if turns and not conversation.running:
            with slots.fill("news"):
                _watch(page, conversation.last_turn_id)
            if is_mine(turns[0].owner):
                with slots.fill("actions"):
                    show_turn_actions(page, turns[-1])
    if conversation.running and wait_until_done(running):
        chat_controls.go_on(page)
        st.rerun()  # draws the turns from their records, now with chart and comparison
    chat_session.wake_sidebar()


def _problems(page: ConversationPage, conversation: Conversation) -> list[ErrorInfo]:
    problems = [*chat_session.chat(page).problems]
    return [*problems, conversation.problem] if conversation.problem else problems


def _show_welcome(page: ConversationPage) -> None:
    if page.takes_images:
        show_vision_welcome(page)
    else:
        show_welcome(page)


def _show_turns(page: ConversationPage, turns: Sequence[TurnRecord]) -> list[RunningLane]:
    """Draw the conversation; returns the lanes that still run."""
    running: list[RunningLane] = []
    chat = chat_session.chat(page)
    places = chat_session.places_of(page, [turn.id for turn in turns])
    for turn, place in zip(turns, places, strict=True):
        with place, st.container(key=f"turn_{turn.id}"):
            running += show_turn(
                chat_session.versions(chat, turn),
                baseline=chat_controls.baseline(page),
                latest=turn is turns[-1],
            )
    return running


@st.fragment(run_every=_NEWS_S)
def _watch(page: ConversationPage, last_turn_id: str | None) -> None:
    """Draw the page again when something was asked here from another tab."""
    if chat_session.has_news(chat_session.chat(page), last_turn_id):
        st.rerun()


def show_welcome(page: ConversationPage) -> None:
    # As a message, so that the browser has loaded what it needs for messages before the first answer comes.
    with st.chat_message("assistant", avatar=":material/speed:"):
        st.subheader(_("One prompt, every engine"), anchor=False)
        st.markdown(_("Ask something below, or start with an example."))
    with st.container(horizontal=True):
        for label, prompt in EXAMPLES.items():
            st.button(_(label), help=prompt, on_click=chat_controls.ask, args=(page, prompt))
    show_cards(chat_controls.picked(page))


def show_vision_welcome(page: ConversationPage) -> None:
    # As a message, so that the browser has loaded what it needs for messages before the first answer comes.
    with st.chat_message("assistant", avatar=":material/imagesmode:"):
        st.subheader(_("One image, every engine"), anchor=False)
        st.markdown(_("Add images below and ask about them, or start with a drawn scene."))
    if needs_preparing(chat_controls.picked_lanes(page, resources.lanes().lanes)):
        show_preparing()
    else:
        _show_scenes(page)
        show_cards(chat_controls.picked(page))


def ask_about(page: ConversationPage, image: GalleryImage) -> None:
    """Ask the scene's first question, with that image and nothing else."""
    chat = chat_session.chat(page)
    chat.attachments = ()
    add_from_gallery(page, image)
    if chat.attachments and chat_controls.send(page, image.questions[0].question, chat.attachments):
        chat.attachments = ()


def _show_scenes(page: ConversationPage) -> None:
    scenes = [image for image in gallery() if image.kind == "scene" and image.questions]
    with st.container(horizontal=True):
        for image in scenes[:_SCENES]:
            with st.container(width=_SCENE_PX):
                st.image(str(image.path), width="stretch", alt=_(image.title))
                st.button(
                    escape(image.questions[0].question),
                    key=page.key(f"begin_{image.name}"),
                    width="stretch",
                    help=origin(image),
                    on_click=ask_about,
                    args=(page, image),
                )


BOARD_REFRESH_S = 0.5
_PROMPT_CHARS = 200
_ANSWER_CHARS = 220
_WAITING: dict[Phase, Text] = {
    Phase.QUEUED: N_("Waiting for its turn"),
    Phase.STARTING: N_("Starting the engine"),
    Phase.SETTLING: N_("Waiting until a stopped request is finished"),
    Phase.SENT: N_("Waiting for the first token"),
}


def show_turn_board(conversation: Conversation) -> None:
    """The conversation's last turn as it stands; call it in a fragment that refreshes itself."""
    if not conversation.turns:
        st.info(_("Nothing has been asked yet."), icon=":material/forum:")
        return
    stored = conversation.turns[-1]
    turn = stored if stored.done else resources.meter().turn(stored.id) or stored
    prompt = " ".join(turn.prompt.split())
    shown = prompt if len(prompt) <= _PROMPT_CHARS else f"{prompt[:_PROMPT_CHARS].rstrip()} …"
    st.markdown(f"# {escape(shown)}", anchors=False)
    show_board([_tile(turn, request) for request in turn.requests], key="present_turn")


def show_newest_turn_board() -> None:
    """The last turn of the conversation that something was asked in last. Raises StoreError."""
    newest = resources.store().conversations(1)
    if not newest:
        show_turn_board(Conversation(()))
        return
    show_turn_board(chat_session.load(ChatState(conversation_id=newest[0].id)))


def _tile(turn: TurnRecord, request: RequestRecord) -> Tile:
    return Tile(
        name=request.lane.name,
        color=color_of(request.lane.name),
        figures=[
            ("TTFT", units.milliseconds(request.ttft_s)),
            (_("Decode"), units.tok_per_s(request.decode_tok_per_s if _is_done(request) else None)),
            ("E2E", units.milliseconds(request.e2e_s))
            if _is_done(request)
            else (_("Time so far"), units.milliseconds(_elapsed_s(request.sent_at))),
        ],
        progress=_progress(turn, request),
        note=_note(request),
    )


def _is_done(request: RequestRecord) -> bool:
    return request.phase is Phase.DONE


def _elapsed_s(sent_at: datetime | None) -> float | None:
    return None if sent_at is None else max(0.0, (utc_now() - sent_at).total_seconds())


def _progress(turn: TurnRecord, request: RequestRecord) -> float:
    """Chunks by the most tokens that were asked for: an estimate, since a chunk may hold several tokens."""
    if _is_done(request):
        return 1.0
    chunks = len(request.timing.chunk_ns) if request.timing else 0
    return min(1.0, chunks / turn.sampling.max_tokens)


def _note(request: RequestRecord) -> str:
    if request.error:
        return _(request.error.message)
    text = " ".join(request.text.split())
    if _is_done(request):
        return text if len(text) <= _ANSWER_CHARS else f"{text[:_ANSWER_CHARS].rstrip()} …"
    if request.phase in _WAITING:
        return _(_WAITING[request.phase])
    return text if len(text) <= _ANSWER_CHARS else f"… {text[-_ANSWER_CHARS:].lstrip()}"
