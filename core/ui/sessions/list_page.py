"""Where sessions begin: the list of those there are, and the form of a new one.

A new one says what it compares, with which prompts, and how people vote. The prompts are a shipped set, an
earlier one, or custom prompts; all can be edited. The open session is kept in the address, so that the page
can be reloaded and shared.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from core.access.guard import Action, is_read_only, may, may_see
from core.domain.conversation import Sampling, StoredImage
from core.domain.sessions import (
    LEAST_LANES,
    MOST_LANES,
    Display,
    PromptSet,
    Session,
    SessionPlan,
    SessionPrompt,
    SessionState,
    VotingMode,
)
from core.domain.specs import LaneSpec
from core.errors import InputError, LMDynoError
from core.i18n import N_, _, ngettext
from core.images.gallery import gallery
from core.images.sanitise import sanitise
from core.models.vision import is_vision
from core.reports.exported_file import read_session
from core.sessions.items import (
    SHIPPED,
    UPLOAD_TYPES,
    guessed_language,
    no_image,
    pasted_prompts,
    prompt_set,
    set_label,
    shipped_set,
    uploaded_prompts,
)
from core.sessions.job import start_answers
from core.sessions.telling import DISPLAY_NAMES, MODE_NAMES, STATE_NAMES
from core.store.sessions import SessionSummary
from core.ui.shared import resources
from core.ui.shared.components import escape, lane_label, show_error
from core.ui.shared.presenting import PRESENT
from core.ui.shared.visitor import auth_configured

_MAX_FILE_MB = 200

_COLORS = {SessionState.DRAFT: "orange", SessionState.OPEN: "green", SessionState.CLOSED: "gray"}

NOT_STARTED = "session_not_started"
"""In the session state: a new session whose answers couldn't be begun, and why. Its page offers to resume."""
_ID = "id"
_NEW = "session_new"

_VOTES = 30
_TOKENS = 384

_PASTED = "pasted"
_UPLOADED = "uploaded"
_COLUMNS = ("prompt", "category", "language", "image")


def show_sessions() -> None:
    st.markdown(
        _(
            "In a session, people compare the answers of several lanes without knowing which lane wrote "
            "which answer. Answers are generated and measured in advance, and then everyone votes "
            "through a link. The results show what the votes prove and what they leave open."
        )
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        if not is_read_only():
            st.button(
                _("New session"),
                type="primary",
                icon=":material/add:",
                on_click=go_to_new,
                disabled=not may(Action.START_JOB),
            )
        if may(Action.IMPORT):
            _show_import()
    summaries = [
        summary for summary in resources.sessions().summaries() if may_see(summary.owner, by_link=False)
    ]
    if summaries:
        _show_list(summaries)
    else:
        st.info(_("There are no sessions yet. Create or import one."), icon=":material/how_to_vote:")


def _show_list(summaries: Sequence[SessionSummary]) -> None:
    for summary in summaries:
        with st.container(
            border=True, horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"
        ):
            with st.container(gap="xsmall", width="stretch"):
                st.markdown(f"**{escape(summary.title)}** {badge(summary.state)}")
                people = ngettext("{n} person", "{n} people", summary.participants)
                votes = ngettext("{n} vote", "{n} votes", summary.votes)
                st.caption(
                    _(
                        "{date} UTC · {people} · {votes}",
                        date=f"{summary.created_at:%Y-%m-%d %H:%M}",
                        people=people,
                        votes=votes,
                    )
                )
            st.button(
                _("Open"),
                key=f"open_{summary.id}",
                on_click=go_to_session,
                args=(summary.id,),
                width="content",
            )


def _show_import() -> None:
    with st.popover(_("Import"), icon=":material/upload:"), st.form("session_import", border=False):
        file = st.file_uploader(
            _("A session's JSON, as another machine exported it"), type="json", max_upload_size=_MAX_FILE_MB
        )
        if not st.form_submit_button(_("Import"), type="primary") or file is None:
            return
        try:
            session = resources.sessions().add(read_session(file))
        except LMDynoError as error:
            show_error(error)
            return
    go_to_session(session.id)
    st.rerun()


def badge(state: SessionState) -> str:
    """The state in its colour, as Markdown."""
    return f":{_COLORS[state]}-badge[{_(STATE_NAMES[state])}]"


def session_in_view() -> Session | None:
    """The session that the address names; None for none. Raises StoreError (`no-such-session`)."""
    session_id = st.query_params.get(_ID)
    return resources.sessions().session(session_id) if session_id else None


def is_new() -> bool:
    """Whether a new session is being made."""
    return bool(st.session_state.get(_NEW))


def go_to_session(session_id: str) -> None:
    st.session_state[_NEW] = False
    st.query_params[_ID] = session_id
    st.query_params.pop(PRESENT, None)


def go_to_list() -> None:
    st.session_state[_NEW] = False
    for name in (_ID, PRESENT):
        st.query_params.pop(name, None)


def go_to_new() -> None:
    go_to_list()
    st.session_state[_NEW] = True


def show_form() -> None:
    st.button(_("All sessions"), icon=":material/arrow_back:", type="tertiary", on_click=go_to_list)
    st.markdown(f"### {_('New session')}", anchors=False)
    title = st.text_input(_("Title"), key="new_title", max_chars=120, persist_state="session")
    purpose = st.text_area(
        _("Purpose"),
        key="new_purpose",
        height=80,
        placeholder=_("What is decided with the result? Participants read this before they vote."),
        persist_state="session",
    )
    lanes = _show_lanes()
    prompts = show_prompts(with_images=bool(lanes) and all(is_vision(lane) for lane in lanes))
    sampling, system_prompt = _show_sampling()
    voting = _show_voting()
    if not st.button(_("Generate answers"), type="primary", icon=":material/play_arrow:"):
        return
    try:
        plan = SessionPlan(
            title=title.strip(),
            purpose=purpose.strip(),
            lanes=lanes,
            prompts=prompts or PromptSet(name="", prompts=()),
            sampling=sampling,
            system_prompt=system_prompt,
            **voting,
        )
        resources.sessions().save_prompt_set(plan.prompts)
        session = resources.sessions().create(Session(plan=plan))
    except LMDynoError as error:
        show_error(error)
        return
    try:
        start_answers(resources.settings(), session)
    except LMDynoError as error:
        st.session_state[NOT_STARTED] = (session.id, error)
    go_to_session(session.id)
    st.rerun()


def _show_lanes() -> tuple[LaneSpec, ...]:
    known = {lane.name: lane for lane in resources.lanes().lanes}
    chosen = st.pills(
        _("Lanes"),
        list(known),
        selection_mode="multi",
        format_func=lane_label,
        key="new_lanes",
        help=_(
            "{least} to {most} lanes. Each lane answers all prompts, one lane after another.",
            least=LEAST_LANES,
            most=MOST_LANES,
        ),
        persist_state="session",
    )
    return tuple(known[name] for name in chosen)


def _show_sampling() -> tuple[Sampling, str]:
    with st.expander(_("Sampling"), icon=":material/tune:"):
        with st.grid(3, min_column_width=200):
            tokens = st.number_input(
                _("Max tokens"),
                16,
                8192,
                _TOKENS,
                step=64,
                help=_("Longer answers take participants longer to read."),
                key="new_tokens",
            )
            temperature = st.slider(
                _("Temperature"),
                0.0,
                1.5,
                0.7,
                0.05,
                help=_(
                    "0 is greedy decoding: a lane then repeats its answers, so second samples can't serve "
                    "as control pairs."
                ),
                key="new_temperature",
            )
            seed = st.number_input(
                _("Seed"),
                0,
                None,
                None,
                placeholder=_("Random"),
                key="new_seed",
            )
        system = st.text_area(
            _("System prompt"),
            height=80,
            placeholder=_("None"),
            key="new_system",
        )
    sampling = Sampling(
        temperature=temperature, max_tokens=int(tokens), seed=None if seed is None else int(seed)
    )
    return sampling, system.strip()


def _show_voting() -> dict[str, Any]:
    with st.expander(_("Voting"), icon=":material/how_to_vote:", expanded=True):
        with st.grid(2, min_column_width=260):
            mode = st.segmented_control(
                _("Participants compare"),
                list(VotingMode),
                default=VotingMode.PAIRWISE,
                required=True,
                format_func=lambda mode: _(MODE_NAMES[mode]),
                key="new_mode",
            )
            display = st.segmented_control(
                _("Answers appear"),
                list(Display),
                default=Display.AT_ONCE,
                required=True,
                format_func=lambda display: _(DISPLAY_NAMES[display]),
                help=_("In both modes, nobody sees how fast a lane was."),
                key="new_display",
            )
            votes = st.number_input(
                _("Votes per person"),
                1,
                500,
                _VOTES,
                help=_(
                    "30 votes take about half an hour. Participants get different prompts and pairs in "
                    "rotation."
                ),
                key="new_votes",
            )
            controls = st.slider(
                _("Control pairs"),
                0,
                30,
                10,
                format="%d%%",
                help=_(
                    "Two answers of one lane, or the same answer twice. They show how much of the votes is "
                    "noise."
                ),
                key="new_controls",
            )
            deploy = st.number_input(
                _("Second votes"),
                0,
                50,
                5,
                help=_(
                    "Number of items shown again after the blind votes, with lanes, speed, memory, and "
                    "energy: which would you deploy?"
                ),
                key="new_second_votes",
            )
            hidden = st.toggle(
                _("Hide the results until the session is closed"),
                value=True,
                help=_("From voters; the host always sees them."),
                key="new_hidden",
            )
        invited = st.text_area(
            _("Only for"),
            height=80,
            placeholder=_("Anyone with the link"),
            help=_("One name, e-mail address, or domain such as @example.com per line."),
            key="new_invited",
        )
        guests = auth_configured() and st.toggle(
            _("Admit guests without a login"),
            key="new_guests",
            help=_(
                "Anyone with the link can vote under a nickname. The link opens nothing but this session."
            ),
        )
    return {
        "guests": guests,
        "mode": mode,
        "display": display,
        "votes_per_person": int(votes),
        "control_ratio": controls / 100,
        "deploy_votes": int(deploy),
        "results_hidden": hidden,
        "invited": tuple(line.strip() for line in invited.splitlines() if line.strip()),
    }


def show_prompts(*, with_images: bool) -> PromptSet | None:
    """The chosen set as edited; None, with the reason in view, while there is none."""
    saved = {f"{kept.name}@{kept.version}": kept for kept in resources.sessions().prompt_sets()}
    names = {
        **{key: _(name) for key, name in SHIPPED.items()},
        **{key: _(set_label(kept)) for key, kept in saved.items()},
        _PASTED: _("Pasted lines"),
        _UPLOADED: _("CSV, JSONL, or text file"),
    }
    default = "vision" if with_images else "english"
    chosen = st.selectbox(
        _("Prompts"),
        list(names),
        index=list(names).index(default),
        format_func=names.__getitem__,
        key=f"new_prompts_{default}",
        persist_state="session",
    )
    try:
        chosen_set = _chosen(chosen, saved)
        if chosen_set is None:
            return None
        return _edited(chosen_set, key=f"{chosen}_{chosen_set.version}")
    except LMDynoError as error:
        show_error(error)
        return None


def _chosen(chosen: str, saved: Mapping[str, PromptSet]) -> PromptSet | None:
    if chosen in SHIPPED:
        return shipped_set(chosen, _gallery_image)
    if chosen in saved:
        return saved[chosen]
    name = st.text_input(_("Set name"), value=_("My prompts"), max_chars=60, key=f"set_name_{chosen}")
    if chosen == _PASTED:
        text = st.text_area(_("One prompt per line"), height=160, key="set_lines", persist_state="session")
        prompts: Sequence[SessionPrompt] = pasted_prompts(text)
    else:
        files = st.file_uploader(
            _("Prompt list and images"),
            type=list(UPLOAD_TYPES),
            accept_multiple_files=True,
            key="set_files",
            help=_(
                "CSV: a head line with prompt and, if wanted, category, language and image. JSONL: objects "
                "with the same keys. Text: one prompt per line."
            ),
        )
        prompts = _uploaded({file.name: file.getvalue() for file in files}) if files else ()
    return prompt_set(name, prompts) if prompts else None


def _uploaded(files: Mapping[str, bytes]) -> Sequence[SessionPrompt]:
    def image_of(name: str) -> StoredImage:
        if name not in files:
            return no_image(name)
        return resources.image_store().put(sanitise(files[name], name=name))

    return uploaded_prompts(files, image_of)


def _gallery_image(name: str) -> StoredImage:
    shown = next((image for image in gallery() if image.name == name), None)
    if shown is None:
        return no_image(name)
    return resources.image_store().put(sanitise(shown.path.read_bytes(), name=shown.path.name))


def _edited(prompts: PromptSet, *, key: str) -> PromptSet:
    """The set after what was changed in the table; a new version if anything was."""
    images = {image.name: image for prompt in prompts.prompts for image in prompt.images}
    rows = [_row(prompt) for prompt in prompts.prompts]
    number = ngettext("{n} prompt", "{n} prompts", len(rows))
    with st.expander(
        _("{name}: {number}, version {version}", name=prompts.name, number=number, version=prompts.version),
        icon=":material/edit_note:",
    ):
        edited: list[dict[str, Any]] = st.data_editor(
            rows,
            num_rows="dynamic",
            key=f"prompts_{key}",
            column_order=_COLUMNS if images else _COLUMNS[:3],
            column_config={
                "prompt": st.column_config.TextColumn(_("Prompt"), width="large", required=True),
                "category": st.column_config.TextColumn(_("Category")),
                "language": st.column_config.TextColumn(_("Language"), help=_("Such as en or zh")),
                "image": st.column_config.TextColumn(_("Image"), disabled=True),
            },
        )
        changed = prompt_set(prompts.name, [_prompt(row, images) for row in edited if _text(row, "prompt")])
        if changed.version == prompts.version:
            return prompts
        st.caption(_("Edited: it becomes version {version}.", version=changed.version))
    return changed


def _row(prompt: SessionPrompt) -> dict[str, Any]:
    return {
        "prompt": prompt.text,
        "category": prompt.category,
        "language": prompt.language,
        "image": prompt.images[0].name if prompt.images else "",
    }


def _prompt(row: Mapping[str, Any], images: Mapping[str, StoredImage]) -> SessionPrompt:
    text, image = _text(row, "prompt"), _text(row, "image")
    if image and image not in images:
        raise InputError(N_('There is no image "{name}".', name=image), hint=N_("Choose the set again."))
    return SessionPrompt(
        text=text,
        category=_text(row, "category"),
        language=_text(row, "language") or guessed_language(text),
        images=(images[image],) if image else (),
    )


def _text(row: Mapping[str, Any], column: str) -> str:
    """A cell's text; new rows have None in cells that nobody wrote to."""
    value = row.get(column)
    return value.strip() if isinstance(value, str) else ""
