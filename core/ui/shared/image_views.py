"""Images on the page: from the image store, small, with Streamlit's own full-screen view."""

from collections.abc import Sequence

import streamlit as st

from core.domain.images import StoredImage
from core.i18n import _
from core.ui.shared import resources
from core.ui.shared.components import escape

SIDE_PX = 768
"""What is sent to the browser, so that the full-screen view shows more than the thumbnail."""
THUMBNAIL_PX = 120


def show_images(images: Sequence[StoredImage], *, width_px: int = THUMBNAIL_PX) -> None:
    """A row of thumbnails; nothing for no images."""
    if not images:
        return
    with st.container(horizontal=True, gap="small"):
        for image in images:
            with st.container(width=width_px, gap="xsmall"):
                show_image(image)


def show_image(image: StoredImage) -> None:
    """One image as wide as its place; a placeholder if its file is gone or damaged."""
    data = resources.image_store().thumbnail(image, SIDE_PX)
    if data is None:
        with st.container(border=True):
            missing = _("{image}: the file is missing", image=escape(image.name or _("Image")))
            st.caption(f":material/broken_image: {missing}")
        return
    st.image(data, width="stretch", alt=describe(image))


def describe(image: StoredImage) -> str:
    """`cat.png, 640 × 480 pixels`."""
    return _(
        "{image}, {width} × {height} pixels",
        image=image.name or _("Image"),
        width=image.width_px,
        height=image.height_px,
    )


def facts(image: StoredImage) -> str:
    """Name, size and type, in Markdown."""
    return escape(f"{describe(image)}, {image.media_type.removeprefix('image/').upper()}")
