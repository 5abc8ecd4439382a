"""What an image in a conversation is: its hash and sizes. Knows no image format and reads no file."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

MAX_IMAGES = 8
"""Images in one turn."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImage:
    """A checked image that messages refer to; its bytes lie in the image store under their hash."""

    sha256: str
    """Hex, lower case, of the bytes as stored and sent: re-encoded, not as they came in."""
    media_type: str
    """image/png or image/jpeg."""
    width_px: int
    height_px: int
    """After the camera's rotation was applied."""
    size_bytes: int
    """Of the stored file; a data URL is about a third longer."""
    name: str = ""
    """What a person called it; text only, never used as a path."""


def named_images(texts: Iterable[str]) -> frozenset[str]:
    """The hashes of the images that texts such as stored plans name; whatever looks like one counts."""
    return frozenset(sha256 for text in texts for sha256 in _SHA256.findall(text))
