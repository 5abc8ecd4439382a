"""Pictures on the page: from the shelf, small, with Streamlit's own full-screen view."""

from collections.abc import Sequence

import streamlit as st

from core.domain.pictures import Picture
from core.ui.shared import resources
from core.ui.shared.components import escape

SIDE_PX = 768
"""What is sent to the browser, so that the full-screen view shows more than the thumbnail."""
THUMBNAIL_PX = 120


def show_pictures(pictures: Sequence[Picture], *, width_px: int = THUMBNAIL_PX) -> None:
    """A row of thumbnails; nothing for no pictures."""
    if not pictures:
        return
    with st.container(horizontal=True, gap="small"):
        for picture in pictures:
            with st.container(width=width_px, gap="xsmall"):
                show_picture(picture)


def show_picture(picture: Picture) -> None:
    """One picture as wide as its place; a placeholder if its file is gone or damaged."""
    data = resources.shelf().thumbnail(picture, SIDE_PX)
    if data is None:
        with st.container(border=True):
            st.caption(f":material/broken_image: {escape(picture.name or 'Picture')}: its file is gone")
        return
    st.image(data, width="stretch", alt=describe(picture))


def describe(picture: Picture) -> str:
    """`cat.png, 640 × 480 pixels`."""
    return f"{picture.name or 'picture'}, {picture.width_px} × {picture.height_px} pixels"


def facts(picture: Picture) -> str:
    """Name, size and type, in Markdown."""
    return escape(f"{describe(picture)}, {picture.media_type.removeprefix('image/').upper()}")
