"""Decoding, colours and encoding: any taken file becomes an upright 8-bit sRGB image without alpha.

The only place where Pillow meets bytes that are not trusted. Knows no limits but Pillow's own; `sanitise`
looks at the size in between. Also makes versions of an image that differ in a few pixels, for load tests in
which no image may come twice.
"""

import random
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from PIL import Image, ImageCms, ImageFile

from core.i18n import N_
from core.images.containers import Kind, kind_of
from core.images.refusals import damaged, of_type, too_many_pixels

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
