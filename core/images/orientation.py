"""How a camera was held, from the one EXIF tag that matters for pixels; all other tags stay unread.

EXIF 3.0 (CIPA DC-008), tag 274 of the first directory, in TIFF 6.0's layout.
"""

import struct

from PIL import Image

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
