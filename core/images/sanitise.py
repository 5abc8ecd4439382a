"""Sanitises images: untrusted bytes in, one of a few harmless formats out.

What lies in the image store and is sent to engines was decoded and encoded here: its type is PNG or JPEG, its
pixels are upright 8-bit sRGB, and nothing else of the original file is left in it. How a camera was held says
the one EXIF tag that matters for pixels (EXIF 3.0, CIPA DC-008, tag 274 of the first directory, in TIFF 6.0's
layout); all other tags stay unread. Names from users are made safe for display and never used as paths.
"""

import hashlib
import struct
import threading
import unicodedata
from dataclasses import dataclass, field

from PIL import Image

from core.domain.conversation import StoredImage
from core.errors import InputError
from core.i18n import N_
from core.images.containers import Kind, Lean, kind_of, lean_jpeg, lean_png
from core.images.pixels import decoding, encode, open_lazily, to_srgb
from core.images.refusals import Refused, animated, too_many_pixels
from core.units import count, gib

_TAG = 274
_FORMATS = {3: "H", 4: "I"}
"""SHORT, as the standard wants it, and LONG, as some programs write it."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MAX_NAME_LENGTH = 80

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode's categories of characters that draw nothing or turn a line of text around."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The largest images that are taken. Checked from the outside in: bytes, then the header's size, then the
    pixels.
    """

    max_bytes: int = 10 * 2**20
    max_pixels: int = 40_000_000
    """A WebP of that size takes 0.9 GB of memory while it is converted, other kinds about 0.5 GB."""
    max_side_px: int = 16_384
    min_side_px: int = 8
    """Less shows nothing, and preprocessors stumble over images one or three pixels high."""
    max_aspect_ratio: int = 50
    """Preprocessors that scale the shorter side to a fixed size blow up a strip beyond all bounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedImage:
    """An image that went through `sanitise`, with its re-encoded bytes."""

    image: StoredImage
    data: bytes = field(repr=False)


_LIMITS = Limits()

# Global in Pillow, which raises from twice this number on, before it sets memory aside. `_check_size` comes
# a moment later and knows the limits of the call.
Image.MAX_IMAGE_PIXELS = _LIMITS.max_pixels

_decoder = threading.Lock()
"""One image at a time: a few large ones at once could take all memory of a machine that serves a model."""


def sanitise(data: bytes, *, name: str = "", limits: Limits = _LIMITS) -> CheckedImage:
    """Check, decode and re-encode an image from an untrusted source. Thread-safe; up to seconds of CPU.

    `name` is only shown, never believed or opened.

    Raises:
        InputError: it is not taken; the code begins with `image-` and says why.
    """
    shown = display_name(name)
    try:
        _check_bytes(data, limits)
        with _decoder:
            kind = kind_of(data)
            pixels = _decode(data, kind, limits)
            encoded, media_type = encode(pixels, kind)
    except Refused as exc:
        raise InputError(exc.problem(shown or N_("The image")), hint=exc.hint, code=exc.code) from exc
    except MemoryError as exc:
        raise InputError(
            N_("{image} can't be opened because memory is low.", image=shown or N_("The image")),
            hint=N_("Make the image smaller, or stop an engine."),
            code="image-memory",
        ) from exc
    image = StoredImage(
        sha256=hashlib.sha256(encoded).hexdigest(),
        media_type=media_type,
        width_px=pixels.width,
        height_px=pixels.height,
        size_bytes=len(encoded),
        name=shown,
    )
    return CheckedImage(image=image, data=encoded)


def _decode(data: bytes, kind: Kind, limits: Limits) -> Image.Image:
    lean = _LEAN[kind](data)
    with decoding(), open_lazily(lean.data, kind) as image:
        _check_size(image.width, image.height, limits)
        if getattr(image, "is_animated", False):
            raise animated()
        exif = lean.exif or image.info.get("exif", b"")
        return upright(to_srgb(image), exif)


_LEAN = {Kind.PNG: lean_png, Kind.JPEG: lean_jpeg, Kind.WEBP: Lean, Kind.GIF: Lean, Kind.BMP: Lean}
"""libwebp finds its chunks itself and keeps the others apart; GIF and BMP hold next to nothing else."""


def _check_bytes(data: bytes, limits: Limits) -> None:
    if not data:
        raise Refused("image-empty", N_("{image} is empty."), N_("Choose or copy the file again."))
    if len(data) > limits.max_bytes:
        raise Refused(
            "image-too-large",
            N_("{image} is larger than {limit}."),
            N_("Make it smaller in an image editor, or save it as JPEG."),
            limit=gib(limits.max_bytes),
        )


def _check_size(width_px: int, height_px: int, limits: Limits) -> None:
    long_px, short_px = max(width_px, height_px), min(width_px, height_px)
    size = f"{count(width_px)} × {count(height_px)}"
    if width_px * height_px > limits.max_pixels or long_px > limits.max_side_px:
        raise too_many_pixels(
            N_(
                "{image} has {size} pixels. The limits are {total} pixels in total and {side} pixels per "
                "side."
            ),
            size=size,
            total=count(limits.max_pixels),
            side=count(limits.max_side_px),
        )
    if short_px < limits.min_side_px:
        raise Refused(
            "image-too-small",
            N_("{image} has {size} pixels. Each side needs at least {side} pixels."),
            N_("Choose a larger image."),
            size=size,
            side=limits.min_side_px,
        )
    if long_px > limits.max_aspect_ratio * short_px:
        raise Refused(
            "image-too-narrow",
            N_("{image} has {size} pixels. One side can be at most {ratio} times as long as the other."),
            N_("Crop it to the part that the question is about."),
            size=size,
            ratio=limits.max_aspect_ratio,
        )


def orientation_of(exif: bytes) -> int:
    """1 to 8 as EXIF counts them; 1, upright, where the block says nothing usable."""
    block = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", block, 4)
        (entries,) = struct.unpack_from(f"{order}H", block, start)
        for at in range(start + 2, start + 2 + 12 * entries, 12):
            tag, kind = struct.unpack_from(f"{order}HH", block, at)
            if tag == _TAG and kind in _FORMATS:
                (value,) = struct.unpack_from(order + _FORMATS[kind], block, at + 8)
                return int(value) if value in _TURNS else 1
    except struct.error:
        pass  # the directory points outside the block
    return 1


def upright(image: Image.Image, exif: bytes) -> Image.Image:
    """The image as the photographer saw it."""
    turn = _TURNS.get(orientation_of(exif))
    return image if turn is None else image.transpose(turn)


def display_name(name: str) -> str:
    """The last part of a path, on one line, without control characters; "" if nothing is left.

    Names over 80 characters lose their middle, so that the ending stays.
    """
    last = name.replace("\\", "/").rstrip("/").rpartition("/")[2]
    plain = unicodedata.normalize("NFC", last.encode("utf-8", "replace").decode("utf-8"))
    shown = "".join(
        " " if character.isspace() else character
        for character in plain
        if character.isspace() or unicodedata.category(character) not in _HIDDEN
    )
    shown = " ".join(shown.split())
    if len(shown) <= MAX_NAME_LENGTH:
        return "" if shown in (".", "..") else shown
    tail = MAX_NAME_LENGTH // 3
    return f"{shown[: MAX_NAME_LENGTH - tail - 1]}…{shown[-tail:]}"
