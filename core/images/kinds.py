"""Recognises file types by content alone; a name or a declared type proves nothing."""

import re
from enum import StrEnum

from core.i18n import N_
from core.images.refusals import Refused, of_type

_SAVE_AS = N_("Open it in an image editor, save it as PNG or JPEG, and use that file.")
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
_HEAD_BYTES = 1024
"""How far a document may begin with comments before its first tag."""


class Kind(StrEnum):
    """The kinds that are taken, under Pillow's names."""

    PNG = "PNG"
    JPEG = "JPEG"
    WEBP = "WEBP"
    GIF = "GIF"
    BMP = "BMP"


_NAMED = (
    (rb"%PDF-", N_("a PDF document"), N_("Take a screenshot of the page, or export the page as PNG.")),
    (rb"(II\*\0|MM\0\*|II\+\0|MM\0\+)", N_("a TIFF or raw camera image"), _SAVE_AS),
    (rb"....ftyp(heic|heix|heim|heis|hevc|hevx|mif1|msf1)", N_("a HEIC image"), _SAVE_AS),
    (rb"....ftyp(avif|avis)", N_("an AVIF image"), _SAVE_AS),
    (rb"(....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI )", N_("a video"), N_("Save a frame as PNG or JPEG.")),
    (rb"(\xff\x0a|\0\0\0\x0cJXL )", N_("a JPEG XL image"), _SAVE_AS),
    (rb"(\0\0\0\x0cjP  |\xff\x4f\xff\x51)", N_("a JPEG 2000 image"), _SAVE_AS),
    (rb"8BPS", N_("a Photoshop document"), _SAVE_AS),
    (rb"\0\0\x01\0", N_("an icon"), _SAVE_AS),
    (
        rb"PK\x03\x04",
        N_("a ZIP archive or an office document"),
        N_("Unpack it, or export the image as PNG or JPEG."),
    ),
)
"""Files that people do try: how they begin, what they are, and what to do about it."""

_SVG = re.compile(rb"<svg[\s>:]", re.IGNORECASE)
_HTML = re.compile(rb"<(!doctype html|html|head|body)\b", re.IGNORECASE)


def kind_of(data: bytes) -> Kind:
    """The kind of an image that is taken.

    Raises:
        Refused: `image-type`, with the name of what it is instead where that can be told.
    """
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return Kind.PNG
    if data.startswith(b"\xff\xd8\xff"):
        return Kind.JPEG
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return Kind.WEBP
    if data.startswith((b"GIF87a", b"GIF89a")):
        return Kind.GIF
    # Two letters begin many a text, too: the size of the second header tells a BMP from them.
    if data.startswith(b"BM") and int.from_bytes(data[14:18], "little") in _BMP_HEADERS:
        return Kind.BMP
    raise _other(data)


def _other(data: bytes) -> Refused:
    for beginning, what, hint in _NAMED:
        if re.match(beginning, data, re.DOTALL):
            return of_type(N_("{image} is {kind}, which isn't supported."), hint, kind=what)
    head = data[:_HEAD_BYTES]
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        if _SVG.search(head):
            return of_type(
                N_(
                    "{image} is an SVG drawing, which isn't supported because it can contain scripts and "
                    "URLs."
                ),
                N_("Export it as PNG, or take a screenshot."),
            )
        if _HTML.search(head):
            return of_type(
                N_("{image} is a web page, not an image."), N_("Save the image instead of the page.")
            )
    return of_type(
        N_("{image} is not an image of a known type."), N_("Use a PNG, JPEG, WebP, GIF, or BMP image.")
    )
