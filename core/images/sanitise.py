"""Sanitises images: untrusted bytes in, one of a few harmless formats out.

What lies in the image store and is sent to engines was decoded and encoded here: its type is PNG or JPEG, its
pixels are upright 8-bit sRGB without alpha, and nothing else of the original file is left in it. How a camera
was held says the one EXIF tag that matters for pixels (EXIF 3.0, CIPA DC-008, tag 274 of the first directory,
in TIFF 6.0's layout); all other tags stay unread. Names from users are made safe for display and never used
as paths.

The only place where Pillow meets bytes that are not trusted. Also makes versions of an image that differ in
a few pixels, for load tests in which no image may come twice.
"""

import hashlib
import random
import struct
import threading
import unicodedata
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from PIL import Image, ImageCms, ImageFile

from core.domain.conversation import StoredImage
from core.errors import InputError
from core.i18n import N_
from core.images.containers import (
    Kind,
    Lean,
    Refused,
    animated,
    damaged,
    kind_of,
    lean_jpeg,
    lean_png,
    of_type,
    too_many_pixels,
)
from core.units import count, gib

MAX_PNG_COLOURS = 4096
MAX_PNG_BYTES = 2**20
JPEG_QUALITY = 92

_BMP_RUN_LENGTHS = (1, 2)
_SRGB = ImageCms.createProfile("sRGB")
_PROFILE_SPACES = {"L": "GRAY", "RGB": "RGB ", "CMYK": "CMYK"}

MALFORMED = (
    OSError,  # truncated or broken data, what Pillow can't identify
    SyntaxError,  # Pillow's word for a wrong header
    ValueError,  # sizes, offsets and palettes out of range
    EOFError,  # a frame that ends too early
    LookupError,  # a header shorter than its length says
    ArithmeticError,  # numbers beyond what a C integer holds
    struct.error,
    zlib.error,
    Warning,  # with `python -W error` Pillow's remarks on odd files are raised
)
"""What Pillow raises for malformed files. TypeError and AttributeError are not among them: Pillow wraps its
own, so that here they would be mistakes of ours. MemoryError is the machine's, not the file's."""
_BLOCK_PX = 8
_NOISE_PIXELS = 64
"""8 × 8, or wider where the last row of blocks is lower."""
_SCAN = b"\xff\xda\x00\x0c"
"""Begins the header of the one scan, which is as long as three components need."""
_SCAN_HEADER_BYTES = 14
_END = b"\xff\xd9"
_OPTIONS: dict[str, Any] = {
    "quality": JPEG_QUALITY,
    "subsampling": 0,
    "optimize": False,
    "progressive": False,
}

_TAG = 274
_FORMATS = {3: "H", 4: "I"}
"""SHORT, as the standard wants it, and LONG, as some programs write it."""
MAX_NAME_LENGTH = 80

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode's categories of characters that draw nothing or turn a line of text around."""


@contextmanager
def decoding() -> Iterator[None]:
    """Around every use of Pillow on bytes that are not trusted: malformed ones raise Refused."""
    # LMDeploy (0.18) turns this on for every program that imports it, and half an image is none.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise too_many_pixels(N_("{image} has far more pixels than allowed.")) from exc
    except MALFORMED as exc:
        raise damaged(N_("it can't be decoded")) from exc


def open_lazily(data: bytes, kind: Kind) -> ImageFile.ImageFile:
    """The image with size and frames known and no pixel decoded; only the decoder of `kind` is tried."""
    image = Image.open(BytesIO(data), formats=(kind,))
    if image.info.get("compression") in _BMP_RUN_LENGTHS and kind is Kind.BMP:
        # Pillow (13.0) expands run lengths in Python, which takes minutes for a file made to be slow.
        raise of_type(
            N_("{image} is a run-length encoded BMP, which isn't supported."),
            N_("Open it in an image editor, and save it as PNG."),
        )
    return image


def to_srgb(image: Image.Image) -> Image.Image:
    """8-bit sRGB on white. Decodes if that has not happened yet.

    A colour profile is applied where it fits the pixels and dropped where it can't be used, as browsers do.
    CMYK without a profile is converted plainly. JPEG's CMYK is taken for Adobe's inverted one, with or
    without Adobe's marker, which is what browsers do, too.
    """
    image.load()
    profile = image.info.get("icc_profile")
    if image.mode.startswith("I;16"):
        # convert("L") would clip at 255.
        image = image.point(lambda sample: sample * (1 / 257) + 0.5).convert("L")
    if image.mode == "1":
        image = image.convert("L")
    if image.has_transparency_data:
        image = _on_white(image.convert("RGBA"))
    elif image.mode not in _PROFILE_SPACES:
        image = image.convert("RGB")
    if profile:
        image = _through_profile(image, profile)
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    ground = Image.new("RGB", image.size, "white")
    ground.paste(image, mask=image.getchannel("A"))
    return ground


def _through_profile(image: Image.Image, icc: bytes) -> Image.Image:
    try:
        profile = ImageCms.ImageCmsProfile(BytesIO(icc))
        if profile.profile.xcolor_space != _PROFILE_SPACES[image.mode]:
            return image
        return ImageCms.profileToProfile(image, profile, _SRGB, outputMode="RGB") or image
    except (ImageCms.PyCMSError, *MALFORMED):
        return image


def encode(image: Image.Image, kind: Kind) -> tuple[bytes, str]:
    """The file and its media type, without any metadata. The same pixels of a kind give the same bytes.

    A JPEG stays one. Others become PNG, which loses nothing, if they have at most 4096 colours and fit into
    1 MiB: drawings, most screenshots, anything of up to 64 × 64 pixels; else JPEG as well. JPEG is written
    in quality 92 with full colour resolution, on which small coloured text stays readable.
    """
    image.info.clear()  # encoders would write what they find there
    buffer = BytesIO()
    if kind is not Kind.JPEG and image.getcolors(MAX_PNG_COLOURS) is not None:
        image.save(buffer, "PNG")
        if buffer.tell() <= MAX_PNG_BYTES:
            return buffer.getvalue(), "image/png"
        buffer = BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue(), "image/jpeg"


class Variants:
    """Makes versions of one image. Thread-safe."""

    def __init__(self, data: bytes) -> None:
        """`data` comes from the image store; it is decoded and encoded once, as JPEG."""
        with Image.open(BytesIO(data), formats=(kind_of(data),)) as image:
            whole = image.convert("RGB")
        last_row = (whole.height - 1) // _BLOCK_PX
        self._strip = whole.crop((0, last_row * _BLOCK_PX, whole.width, whole.height))
        encoded = _jpeg(whole, restart_marker_rows=1)
        # Restart markers count from D0 to D7 and begin again; the scan holds no other markers.
        end = (
            encoded.rindex(bytes((0xFF, 0xD0 + (last_row - 1) % 8))) + 2 if last_row else _scan_start(encoded)
        )
        self._above = encoded[:end]

    def make(self, seed: str) -> bytes:
        """The image as JPEG, with noise in its lower right corner that only this seed has."""
        strip = self._strip.copy()
        size = min(_NOISE_PIXELS // strip.height, strip.width), strip.height
        noise = Image.frombytes("RGB", size, random.Random(seed).randbytes(3 * size[0] * size[1]))
        strip.paste(noise, (strip.width - size[0], 0))
        encoded = _jpeg(strip)
        return self._above + encoded[_scan_start(encoded) : -len(_END)] + _END


def _jpeg(image: Image.Image, **more: int) -> bytes:
    buffer = BytesIO()
    image.save(buffer, "JPEG", **_OPTIONS, **more)
    return buffer.getvalue()


def _scan_start(encoded: bytes) -> int:
    """Return where the header ends and the entropy-coded data begins."""
    return encoded.index(_SCAN) + _SCAN_HEADER_BYTES


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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
