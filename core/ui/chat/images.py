"""Images in a conversation: those chosen for the next prompt, and which lanes see them.

Images are taken in at once, checked and stored before anything is sent: thumbnails above the prompt, and the
ways to add more. Then which lanes see and which don't, and what the demo model can't do.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

import streamlit as st

from core.access.guard import Action, may
from core.config import VISION_DEMO_NAME
from core.domain.conversation import MAX_IMAGES, StoredImage, messages_for
from core.domain.specs import LaneSpec
from core.domain.turns import ErrorInfo, TurnRecord, history
from core.errors import InputError, LMDynoError
from core.i18n import N_, _, ngettext
from core.images.gallery import GalleryImage, GalleryKind, gallery
from core.images.sanitise import sanitise
from core.jobs.registry import Jobs
from core.models import demo_models
from core.models import job as models_job
from core.models.vision import refusal
from core.ui.chat import session as chat_session
from core.ui.chat.session import ConversationPage
from core.ui.engines.status import REFRESH_S
from core.ui.shared import resources
from core.ui.shared.components import (
    errors_as_toasts,
    escape,
    image_facts,
    image_preview,
    lane_label,
    show_error,
    show_image,
)
from core.ui.shared.jobs import WAITING

_ATTACHMENT_PX = 96

_COLUMNS = 6
_MIN_WIDTH_PX = 110
_SECTIONS = {
    GalleryKind.SCENE: N_("**Drawn scenes**, which the demo model understands"),
    GalleryKind.PHOTO: N_(
        "**Photographs**, for your own models: the demo model understands only drawn scenes"
    ),
}


class File(Protocol):
    """A file that a browser sent."""

    name: str

    def getvalue(self) -> bytes: ...


def add_files(page: ConversationPage, files: Iterable[File]) -> None:
    """Attach files; one that can't be used becomes a problem, the others stay."""
    for file in files:
        _add(page, file.getvalue(), file.name)


def add_data(page: ConversationPage, data: bytes, name: str) -> None:
    chat_session.chat(page).problems = ()
    _add(page, data, name)


def forget_problems(page: ConversationPage) -> None:
    chat_session.chat(page).problems = ()


def remove(page: ConversationPage, image: StoredImage) -> None:
    chat = chat_session.chat(page)
    chat.problems = ()
    chat.attachments = tuple(other for other in chat.attachments if other.sha256 != image.sha256)


def _add(page: ConversationPage, data: bytes, name: str) -> None:
    chat = chat_session.chat(page)
    try:
        if len(chat.attachments) >= MAX_IMAGES:
            raise InputError(
                N_("{name} is one image too many: a question takes {most}", name=name, most=MAX_IMAGES),
                hint=N_("Remove another image first."),
                code="too-many-images",
            )
        image = resources.image_store().put(sanitise(data, name=name))
    except LMDynoError as error:
        chat.problems = (*chat.problems, ErrorInfo.of(error))
        return
    if all(image.sha256 != other.sha256 for other in chat.attachments):
        chat.attachments = (*chat.attachments, image)


def show_images(page: ConversationPage) -> None:
    """The thumbnails of the attachments, also while answers come."""
    chosen = chat_session.chat(page).attachments
    if not chosen:
        st.empty()
        return
    with st.container(horizontal=True, gap="small", key=page.key("attachments")):
        for image in chosen:
            with st.container(width=_ATTACHMENT_PX, gap="xsmall"):
                show_image(image)
                st.button(
                    _("Remove"),
                    icon=":material/close:",
                    type="tertiary",
                    key=page.key(f"remove_{image.sha256}"),
                    help=image_facts(image),
                    on_click=remove,
                    args=(page, image),
                )
        for _place in range(len(chosen), MAX_IMAGES):
            st.empty()


def show_ways_to_add(page: ConversationPage, lanes: Sequence[LaneSpec], turns: Sequence[TurnRecord]) -> None:
    """Gallery and camera, and what the picked lanes make of the images that are chosen."""
    chosen = chat_session.chat(page).attachments
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        full = len(chosen) >= MAX_IMAGES
        for name, label, icon, open_dialog in (
            ("gallery", _("Gallery"), ":material/photo_library:", open_gallery),
            ("camera", _("Camera"), ":material/photo_camera:", open_camera),
        ):
            if st.button(
                label,
                icon=icon,
                key=page.key(name),
                disabled=full,
                on_click=forget_problems,
                args=(page,),
            ):
                open_dialog(page)
        if chosen:
            st.caption(_summary(chosen, lanes, turns), width="content")


def _summary(chosen: tuple[StoredImage, ...], lanes: Sequence[LaneSpec], turns: Sequence[TurnRecord]) -> str:
    """The number of images, and their size and tokens for each picked lane, where these are known."""
    parts = [_("{n} of {most} images", n=len(chosen), most=MAX_IMAGES)]
    for lane in lanes:
        messages = messages_for("", earlier=history(lane.name, turns), images=chosen)
        if known := image_preview(lane, messages):
            parts.append(f"{lane_label(lane.name)} {known}")
    return " · ".join(parts)


def open_gallery(page: ConversationPage) -> None:
    """A dialog with thumbnails by kind; each click attaches one, and the dialog stays open for more."""
    title = _("Images to ask about")
    st.dialog(title, width="large", icon=":material/photo_library:")(_show_gallery)(page)


def _show_gallery(page: ConversationPage) -> None:
    for kind, title in _SECTIONS.items():
        if images := [image for image in gallery() if image.kind == kind]:
            st.markdown(_(title))
            _show_grid(page, images)
    chat = chat_session.chat(page)
    with st.container():
        for problem in chat.problems:
            show_error(problem)
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        chosen = _("{n} of {most} images chosen", n=len(chat.attachments), most=MAX_IMAGES)
        st.caption(chosen, width="content")
        if st.button(_("Done"), type="primary", key=page.key("gallery_done")):
            st.rerun()


def open_camera(page: ConversationPage) -> None:
    """A dialog with the browser's camera."""
    st.dialog(_("Take a photo"), icon=":material/photo_camera:")(_show_camera)(page)


def _show_camera(page: ConversationPage) -> None:
    st.caption(_("No model sees the image before you ask about it."))
    photo = st.camera_input(_("Camera"), key=page.key("camera_image"), label_visibility="collapsed")
    if photo and st.button(_("Use image"), type="primary", key=page.key("camera_use")):
        add_data(page, photo.getvalue(), "camera.jpg")
        st.rerun()


def add_from_gallery(page: ConversationPage, image: GalleryImage) -> None:
    add_data(page, image.path.read_bytes(), image.path.name)


def origin(image: GalleryImage) -> str:
    """The source of an image and its licence."""
    return escape(
        _(
            "{title}. {licence}. Source: {source}",
            title=_(image.title),
            licence=image.licence,
            source=_(image.source),
        )
    )


def _show_grid(page: ConversationPage, images: Sequence[GalleryImage]) -> None:
    chosen = [image.name for image in chat_session.chat(page).attachments]
    grid = st.grid(_COLUMNS, min_column_width=_MIN_WIDTH_PX)
    for image in images:
        with grid.cell():
            st.image(str(image.path), width="stretch", alt=_(image.title))
            is_chosen = image.path.name in chosen
            st.button(
                escape(_(image.title)),
                key=page.key(f"gallery_{image.name}"),
                icon=":material/check:" if is_chosen else ":material/add:",
                width="stretch",
                help=origin(image),
                disabled=is_chosen or len(chosen) >= MAX_IMAGES,
                on_click=add_from_gallery,
                args=(page, image),
            )


DEMO_LIMITS = N_("The demo model understands only simple drawn scenes.")
_EXAMPLE = """\
[models.llava]
checkpoint = "llava-hf/llava-1.5-7b-hf"

[lanes.llava]
engine = "pytorch"      # or "transformers", on a CPU too
model = "llava"

[lanes.lab]
engine = "endpoint"
url = "http://gpu-host:23333/v1"
vision = true
"""


def show_no_lanes(lanes: Sequence[LaneSpec]) -> None:
    """Nothing here sees: why each lane doesn't, and how to add one that does."""
    st.info(
        _("No lane can see images. Add one to `lanes.toml`, and reload this page:"),
        icon=":material/image_not_supported:",
    )
    st.code(_EXAMPLE, language="toml")
    show_refused(lanes)


def show_refused(lanes: Sequence[LaneSpec]) -> None:
    """The lanes that are not offered, each with its reason; nothing if all are."""
    reasons = {lane.name: reason for lane in lanes if (reason := refusal(lane))}
    if not reasons:
        return
    label = ngettext("{n} lane can't see images", "{n} lanes can't see images", len(reasons))
    with st.expander(label, icon=":material/image_not_supported:"):
        for name, reason in reasons.items():
            st.markdown(f"{lane_label(name)}  \n:small[:gray[{escape(_(reason.message))}]]")


def show_limits(lanes: Sequence[LaneSpec], images: Sequence[StoredImage]) -> None:
    """The limits of the demo model, if one of the lanes has it; stressed for possible photographs."""
    if not any(lane.model and lane.model.name == VISION_DEMO_NAME for lane in lanes):
        return
    # Drawings are mostly PNG, photographs JPEG; only the model would know better.
    if any(image.media_type == "image/jpeg" for image in images):
        limits = _(
            "The demo model understands only simple drawn scenes. Its answers about photographs are "
            "meaningless. "
            "Choose a lane with a larger model."
        )
        st.caption(f":orange[:material/warning: {limits}]")
    else:
        st.caption(f":material/info: {_(DEMO_LIMITS)}")


def needs_preparing(lanes: Sequence[LaneSpec]) -> bool:
    """Whether one of the lanes wants the demo model and it is not there yet."""
    has_demo_lane = any(lane.model and lane.model.name == VISION_DEMO_NAME for lane in lanes)
    return has_demo_lane and not demo_models.is_vision_prepared(resources.settings())


@st.fragment(run_every=REFRESH_S)
def show_preparing() -> None:
    """The way to the demo model: a button, then how far it is; refreshes itself, and the page when done."""
    settings = resources.settings()
    if demo_models.is_vision_prepared(settings):
        st.rerun()  # the page has the rest to show now
    status = next(iter(Jobs(settings).statuses(models_job.PREPARING_DEMOS)), None)
    with st.container(border=True):
        st.markdown(f"**{_('The demo vision model is not prepared yet')}**")
        st.caption(
            _(
                "LMDyno includes its weights and combines them with those of the demo chat model. This "
                "takes less "
                "than a minute if the demo chat model is prepared, and has to be done only once."
            )
        )
        if status and not status.state.ended:
            st.progress(status.record.progress or 0.0, text=escape(_(status.record.stage or WAITING)))
            return
        if status and status.record.error:
            show_error(status.record.error)
        st.button(
            _("Prepare the demo model"),
            icon=":material/download:",
            type="primary",
            key="prepare_demo_vision",
            disabled=not may(Action.START_JOB),
            on_click=_prepare,
        )


def _prepare() -> None:
    with errors_as_toasts():
        models_job.start_demos(resources.settings())
