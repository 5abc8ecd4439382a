"""File types by content alone, PNG and JPEG files without what pixels don't need, and reasons to refuse one.

A name or a declared type proves nothing. Text, comments, thumbnails, second images, unknown parts and
whatever hangs on behind are dropped before Pillow reads the file: that is where files hide bombs (compressed
text, a hundred thousand EXIF pieces) and people's places and names. Of EXIF only the orientation is read, by
`sanitise`. PNG: W3C Recommendation, third edition, 2025. JPEG: ITU-T T.81 (1992), annex B; T.872 for Adobe's
marker.
"""

import re
import zlib
from dataclasses import dataclass
from enum import StrEnum

from core.i18n import N_, Message, Text

_SAVE_AS = N_("Open it in an image editor, save it as PNG or JPEG, and use that file.")
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)
_HEAD_BYTES = 1024
"""How far a document may begin with comments before its first tag."""
MAX_JPEG_SCANS = 100
"""Each scan of a progressive JPEG goes over all pixels again, and a few bytes make one: unbounded they keep
a decoder busy for hours. Encoders write about ten."""

_MAX_PROFILE_BYTES = 2**20
"""Pillow refuses PNG files whose colour profile is larger; without it they are fine."""

_PNG_GREY, _PNG_COLOUR, _PNG_PALETTE = 0, 2, 3
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"iCCP")
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])", re.DOTALL)
"""A marker that begins a segment: not a stuffed, a fill byte or a restart."""
_SOI, _EOI, _SOS, _TEM = 0xD8, 0xD9, 0xDA, 0x01
_APP0, _APP1, _APP2, _APP14, _COM = 0xE0, 0xE1, 0xE2, 0xEE, 0xFE


class Refused(Exception):
    """Internal to this folder; `sanitise` turns it into an InputError that names the image.

    `problem` names the image as `{image}`; `values` are its other values.
    """

    def __init__(self, code: str, problem: Message, hint: Message, **values: object) -> None:
        super().__init__(code, problem, hint)
        self.code = code
        self.hint = hint
        self._problem = problem
        self._values = values

    def problem(self, image: Text) -> Message:
        """Return what is wrong with the image of that name."""
        return self._problem.filled(image=image, **self._values)


def damaged(reason: Message) -> Refused:
    return Refused(
        "image-damaged",
        N_("{image} is damaged: {reason}."),
        N_("Copy or download it again, or open it in an image editor and save it as PNG or JPEG."),
        reason=reason,
    )


def too_many_pixels(problem: Message, **values: object) -> Refused:
    return Refused(
        "image-too-many-pixels",
        problem,
        N_("Scale it down in an image editor. Models see far fewer pixels anyway."),
        **values,
    )


def animated() -> Refused:
    return Refused(
        "image-animated",
        N_("{image} is animated, but models see only still images."),
        N_("Save the frame you want as PNG or JPEG."),
    )


def of_type(problem: Message, hint: Message, **values: object) -> Refused:
    return Refused("image-type", problem, hint, **values)


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


@dataclass(frozen=True, slots=True)
class Lean:
    """A file for the decoder, and the EXIF block that it had ("" if none)."""

    data: bytes
    exif: bytes = b""


def lean_png(data: bytes) -> Lean:
    """The chunks that make the pixels, checksums verified; raises Refused for animated and broken files."""
    kept: dict[bytes, bytes] = {}
    pixels: list[bytes] = []
    exif, at, name = b"", 8, b""
    while name != b"IEND":
        length, name = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        content, checksum = data[at + 8 : at + 8 + length], data[at + 8 + length : at + 12 + length]
        if len(checksum) < 4:
            raise damaged(N_("it ends too early"))
        if name == b"acTL" and int.from_bytes(content[:4]) > 1:
            raise animated()
        if (name in _PNG_KEPT or name == b"IDAT") and zlib.crc32(name + content) != int.from_bytes(checksum):
            raise damaged(N_("a checksum is wrong"))
        if name == b"IDAT":
            pixels.append(content)
        elif name in _PNG_KEPT:
            kept.setdefault(name, content)
        elif name == b"eXIf":
            exif = exif or content
        at += 12 + length
    header = kept.get(b"IHDR", b"")
    if len(header) != 13 or not pixels:
        raise damaged(N_("it has no pixels"))
    if header[9] == _PNG_PALETTE and b"PLTE" not in kept:
        raise damaged(N_("its palette is missing"))
    return Lean(data[:8] + _png_chunks(kept, b"".join(pixels)), exif)


def _png_chunks(parts: dict[bytes, bytes], pixels: bytes) -> bytes:
    header = parts[b"IHDR"]
    if b"tRNS" in parts:
        parts[b"tRNS"] = _transparent_in_8_bits(parts[b"tRNS"], depth=header[8], colour_type=header[9])
    if b"iCCP" in parts and not _is_small_profile(parts[b"iCCP"]):
        del parts[b"iCCP"]
    names = [name for name in (b"IHDR", b"iCCP", b"PLTE", b"tRNS") if name in parts]
    chunks = [(name, parts[name]) for name in names] + [(b"IDAT", pixels), (b"IEND", b"")]
    return b"".join(
        len(content).to_bytes(4) + name + content + zlib.crc32(name + content).to_bytes(4)
        for name, content in chunks
    )


def _transparent_in_8_bits(samples: bytes, *, depth: int, colour_type: int) -> bytes:
    """The transparent grey or colour on the scale of the decoded pixels.

    Pillow (seen in 13.0) widens or narrows the pixels to 8 bits, but compares them with the transparent
    sample as it stands in the file. 16-bit colours next to the transparent one become transparent with it.
    """
    values = [int.from_bytes(samples[at : at + 2]) for at in range(0, len(samples) - 1, 2)]
    if colour_type == _PNG_COLOUR and depth == 16:
        values = [value >> 8 for value in values]
    elif colour_type == _PNG_GREY and depth == 16:
        values = [round(value / 257) for value in values]
    elif colour_type == _PNG_GREY and depth in (2, 4):
        values = [min(value * 255 // (2**depth - 1), 255) for value in values]
    else:
        return samples
    return b"".join(value.to_bytes(2) for value in values)


def _is_small_profile(chunk: bytes) -> bool:
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(chunk[chunk.find(b"\0") + 2 :], _MAX_PROFILE_BYTES)
    except zlib.error:
        return False
    return unpacker.eof


def lean_jpeg(data: bytes) -> Lean:
    """The segments that make the pixels, up to the end of the first image.

    Raises:
        Refused: `image-damaged` if it has no end, `image-too-complex` for too many scans.
    """
    parts, exif, scans, at = [data[:2]], b"", 0, 2
    while True:
        marker, at = _next_marker(data, at)
        if marker == _EOI:
            return Lean(b"".join([*parts, b"\xff\xd9"]), exif)
        if marker == _TEM:
            continue
        length = int.from_bytes(data[at : at + 2])
        segment = data[at : at + length]
        if marker == _SOI or length < 2 or len(segment) < length:
            raise damaged(N_("it ends too early"))
        at += length
        if marker == _APP1 and segment[2:8] == b"Exif\0\0":
            exif = exif or segment[8:]
        if marker == _SOS:
            scans += 1
            if scans > MAX_JPEG_SCANS:
                raise _too_many_scans()
            end = _next_marker(data, at)[1] - 2
            segment, at = segment + data[at:end], end
        if _makes_pixels(marker, segment):
            parts += (bytes((0xFF, marker)), segment)


def _next_marker(data: bytes, at: int) -> tuple[int, int]:
    """The next marker and the place behind it."""
    match = _JPEG_MARKER.search(data, at)
    if not match:
        raise damaged(N_("it ends too early"))
    return match[1][0], match.end()


def _makes_pixels(marker: int, segment: bytes) -> bool:
    if marker == _APP0:
        return segment[2:6] == b"JFIF"
    if marker == _APP2:
        return segment[2:14] == b"ICC_PROFILE\0" and len(segment) > 16
    if marker == _APP14:
        return segment[2:7] == b"Adobe"
    return not (0xE0 <= marker <= 0xEF or 0xF0 <= marker <= _COM)


def _too_many_scans() -> Refused:
    return Refused(
        "image-too-complex",
        N_("{image} has more than {most} scans and would take too long to decode."),
        N_("Open it in an image editor, and save it as JPEG or PNG."),
        most=MAX_JPEG_SCANS,
    )
