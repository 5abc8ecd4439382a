"""What kind of file some bytes are, by their content alone: a name or an announced type proves nothing."""

import re
from enum import StrEnum

from core.images.refusals import Refused, of_type

_TAKEN = "PNG, JPEG, WebP, GIF and BMP images are taken"
_SAVE_AS = "Open it in an image program, save it as PNG or JPEG and take that."
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
    (rb"%PDF-", "a PDF document", "Take a screenshot of the page, or export the page as PNG."),
    (rb"(II\*\0|MM\0\*|II\+\0|MM\0\+)", "a TIFF or raw camera image", _SAVE_AS),
    (rb"....ftyp(heic|heix|heim|heis|hevc|hevx|mif1|msf1)", "a HEIC image", _SAVE_AS),
    (rb"....ftyp(avif|avis)", "an AVIF image", _SAVE_AS),
    (rb"(....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI )", "a video", "Save one frame of it as PNG or JPEG."),
    (rb"(\xff\x0a|\0\0\0\x0cJXL )", "a JPEG XL image", _SAVE_AS),
    (rb"(\0\0\0\x0cjP  |\xff\x4f\xff\x51)", "a JPEG 2000 image", _SAVE_AS),
    (rb"8BPS", "a Photoshop document", _SAVE_AS),
    (rb"\0\0\x01\0", "an icon", _SAVE_AS),
    (rb"PK\x03\x04", "a ZIP archive or an office document", f"Unpack it or export the image. {_TAKEN}."),
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
            return of_type(f"{what}, which is not taken", hint)
    head = data[:_HEAD_BYTES]
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        if _SVG.search(head):
            return of_type(
                "an SVG drawing, which is not taken: it may hold scripts and addresses",
                "Export it as PNG, or take a screenshot of it.",
            )
        if _HTML.search(head):
            return of_type("a web page, not an image", "Save the image on the page, not the page.")
    return of_type("not an image of a known kind", f"{_TAKEN}.")
