"""The tray above the prompt: thumbnails of the chosen images, and the ways to add more."""

from collections.abc import Sequence

import streamlit as st

from core.domain.conversation import messages_for
from core.domain.images import MAX_IMAGES, StoredImage
from core.domain.specs import LaneSpec
from core.domain.turn_planning import history
from core.domain.turns import TurnRecord
from core.images.gallery import GalleryImage, gallery
from core.ui.chat import attachments
from core.ui.chat import session as chat_session
from core.ui.chat.conversation_page import ConversationPage
from core.ui.shared.components import escape, lane_label, show_error
from core.ui.shared.image_text import counted, preview
from core.ui.shared.image_views import facts, show_image

_ATTACHMENT_PX = 96


_COLUMNS = 6
_MIN_WIDTH_PX = 110
_SECTIONS = {
    "scene": "**Drawn scenes** · what the demo model knows",
    "photo": "**Photographs** · for your own models: the demo model knows drawn scenes only",
}


def show_images(page: ConversationPage) -> None:
    """The thumbnails of the tray, also while answers come."""
    chosen = chat_session.chat(page).attachments
    if not chosen:
        st.empty()
        return
    with st.container(horizontal=True, gap="small", key=page.key("attachments")):
        for image in chosen:
            with st.container(width=_ATTACHMENT_PX, gap="xsmall"):
                show_image(image)
                st.button(
                    "Remove",
                    icon=":material/close:",
                    type="tertiary",
                    key=page.key(f"remove_{image.sha256}"),
                    help=facts(image),
                    on_click=attachments.remove,
                    args=(page, image),
                )
        for _ in range(len(chosen), MAX_IMAGES):
            st.empty()


def show_ways_to_add(page: ConversationPage, lanes: Sequence[LaneSpec], turns: Sequence[TurnRecord]) -> None:
    """Gallery and camera, and what the picked lanes make of the images that are chosen."""
    chosen = chat_session.chat(page).attachments
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        full = len(chosen) >= MAX_IMAGES
        for label, icon, open_dialog in (
            ("Gallery", ":material/photo_library:", open_gallery),
            ("Camera", ":material/photo_camera:", open_camera),
        ):
            if st.button(
                label,
                icon=icon,
                key=page.key(label.lower()),
                disabled=full,
                on_click=attachments.forget_problems,
                args=(page,),
            ):
                open_dialog(page)
        if chosen:
            st.caption(_summary(chosen, lanes, turns), width="content")


def _summary(chosen: tuple[StoredImage, ...], lanes: Sequence[LaneSpec], turns: Sequence[TurnRecord]) -> str:
    """How many of how many, and what each picked lane makes of them, where that is known."""
    parts = [f"{len(chosen)} of {counted(MAX_IMAGES)}"]
    for lane in lanes:
        messages = messages_for("", earlier=history(lane.name, turns), images=chosen)
        if known := preview(lane, messages):
            parts.append(f"{lane_label(lane.name)} {known}")
    return " · ".join(parts)


@st.dialog("Images to ask about", width="large", icon=":material/photo_library:")
def open_gallery(page: ConversationPage) -> None:
    """Thumbnails by kind; each click adds one to the tray, and the dialog stays open for more."""
    for kind, title in _SECTIONS.items():
        if images := [image for image in gallery() if image.kind == kind]:
            st.markdown(title)
            _show_grid(page, images)
    chat = chat_session.chat(page)
    with st.container():
        for problem in chat.problems:
            show_error(problem)
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.caption(f"{len(chat.attachments)} of {counted(MAX_IMAGES)} chosen", width="content")
        if st.button("Done", type="primary", key=page.key("gallery_done")):
            st.rerun()


@st.dialog("Take an image", icon=":material/photo_camera:")
def open_camera(page: ConversationPage) -> None:
    st.caption("No model sees the image before you ask about it.")
    photo = st.camera_input("Camera", key=page.key("camera_image"), label_visibility="collapsed")
    if photo and st.button("Use it", type="primary", key=page.key("camera_use")):
        attachments.add_data(page, photo.getvalue(), "camera.jpg")
        st.rerun()


def add_from_gallery(page: ConversationPage, image: GalleryImage) -> None:
    attachments.add_data(page, image.path.read_bytes(), image.path.name)


def origin(image: GalleryImage) -> str:
    """Where an image comes from and how it may be used."""
    return escape(f"{image.title}. {image.licence}. Source: {image.source}")


def _show_grid(page: ConversationPage, images: Sequence[GalleryImage]) -> None:
    chosen = [image.name for image in chat_session.chat(page).attachments]
    grid = st.grid(_COLUMNS, min_column_width=_MIN_WIDTH_PX)
    for image in images:
        with grid.cell():
            st.image(str(image.path), width="stretch", alt=image.title)
            is_chosen = image.path.name in chosen
            st.button(
                "Added" if is_chosen else "Add",
                key=page.key(f"gallery_{image.name}"),
                icon=":material/check:" if is_chosen else ":material/add:",
                width="stretch",
                help=origin(image),
                disabled=is_chosen or len(chosen) >= MAX_IMAGES,
                on_click=add_from_gallery,
                args=(page, image),
            )
