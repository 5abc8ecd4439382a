"""Versions of an image that differ in a few pixels, for load tests in which no image may come twice.

A JPEG with a restart marker after each row of blocks (ITU-T T.81, E.1.4) can be cut there: only the last row
is encoded anew, so that a version of a large image takes about as long as one of a small image.
"""

import random
from io import BytesIO
from typing import Any

from PIL import Image

from core.images.kinds import kind_of
from core.images.pixels import JPEG_QUALITY

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
    """Where the header ends and the entropy-coded data begins."""
    return encoded.index(_SCAN) + _SCAN_HEADER_BYTES
