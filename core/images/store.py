"""The image store: one file an image, named by the hash of its content. Messages keep only the hash.

Nothing but a checked hash ever becomes part of a path. Files that were removed or changed from outside
cost their own images a clear message, nothing else.
"""

import base64
import hashlib
import logging
import os
import re
import secrets
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from io import BytesIO
from pathlib import Path

from PIL import Image

from core.domain.conversation import StoredImage
from core.errors import StoreError
from core.files import write_atomically
from core.i18n import N_
from core.images.containers import Kind, kind_of
from core.images.sanitise import CheckedImage

log = logging.getLogger(__name__)

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MEDIA_TYPES = {Kind.PNG: "image/png", Kind.JPEG: "image/jpeg"}
_THUMBNAILS = 512
_THUMBNAIL_QUALITY = 85


class ImageStore:
    """Images in one folder, which is made when the first one comes. Thread-safe and process-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shrunk = lru_cache(maxsize=_THUMBNAILS)(self._shrink)

    def put(self, checked: CheckedImage) -> StoredImage:
        """Store the image unless its file is there and whole already; either way it is new for `remove`.

        Raises:
            StoreError: `image-not-stored`: no space, or no right to write.
        """
        image = checked.image
        path = self._path(image.sha256)
        with suppress(OSError):  # most often there is no such file yet
            os.utime(path)
        if self._content(image) is None:
            try:
                write_atomically(path, checked.data)
            except OSError as exc:
                raise StoreError(
                    N_(
                        "Can't store image {image}: {reason}.",
                        image=image.name or image.sha256[:12],
                        reason=exc.strerror or exc,
                    ),
                    hint=N_("Check that {path} is writable and that the disk has space.", path=self._folder),
                    code="image-not-stored",
                ) from exc
        return image

    def read(self, image: StoredImage) -> bytes:
        """The image's bytes, compared with its hash.

        Raises:
            StoreError: `image-missing`: the file is gone, can't be read or is not what was stored.
        """
        content = self._content(image)
        if content is None:
            raise StoreError(
                N_(
                    "Image {image} is no longer on this machine, or its file was changed.",
                    image=image.name or image.sha256[:12],
                ),
                hint=N_("Add the image again, then ask again."),
                code="image-missing",
            )
        return content

    def data_url(self, image: StoredImage) -> str:
        """Return what a message carries, with the type that the bytes have; raises StoreError like `read`."""
        return data_url(self.read(image))

    def remove(self, sha256s: Iterable[str], *, put_before: datetime) -> int:
        """Delete these images' files unless one was stored again since; returns how many.

        An image that somebody chose again meanwhile may be one that no record names yet. One that can't be
        deleted stays, and the log says so.
        """
        removed = 0
        for sha256 in sha256s:
            try:
                removed += _remove(self._path(sha256), put_before.timestamp())
            except FileNotFoundError:  # never here, or another process was first
                continue
            except OSError as exc:
                log.warning("image not removed reason=%s", exc.strerror)
        return removed

    def thumbnail(self, image: StoredImage, side_px: int) -> bytes | None:
        """The image in its own type, at most `side_px` wide and high. None if its file is gone or damaged.

        The last few hundred stay in memory.
        """
        try:
            return self._shrunk(image, side_px) if self._path(image.sha256).is_file() else None
        except StoreError:
            return None

    def _shrink(self, image: StoredImage, side_px: int) -> bytes:
        content, buffer = self.read(image), BytesIO()
        kind = kind_of(content)
        with Image.open(BytesIO(content), formats=(kind,)) as pixels:
            pixels.thumbnail((side_px, side_px))
            pixels.save(buffer, kind, quality=_THUMBNAIL_QUALITY)
        return buffer.getvalue()

    def _content(self, image: StoredImage) -> bytes | None:
        """None unless the file has the hash that names it."""
        try:
            content = self._path(image.sha256).read_bytes()
        except OSError:
            return None
        return content if hashlib.sha256(content).hexdigest() == image.sha256 else None

    def _path(self, sha256: str) -> Path:
        # Records come from other machines, too: what is no hash has no file, and is no path.
        name = sha256 if _SHA256.fullmatch(sha256) else "0" * 64
        return self._folder / name[:2] / name


def data_url(content: bytes) -> str:
    """A PNG's or JPEG's bytes as a data URL."""
    return f"data:{_MEDIA_TYPES[kind_of(content)]};base64,{base64.b64encode(content).decode('ascii')}"


def _remove(path: Path, put_before_s: float) -> bool:
    """Whether the file was old enough; raises OSError."""
    if path.stat().st_mtime >= put_before_s:
        return False
    aside = _beside(path)
    path.rename(aside)
    # A `put` between these two looks has refreshed the file that it found, which goes back; one that finds
    # none writes its own.
    if aside.stat().st_mtime >= put_before_s:
        aside.replace(path)
        return False
    aside.unlink()
    return True


def _beside(path: Path) -> Path:
    """An unused name in the same folder."""
    return path.with_name(f"{path.name}.{secrets.token_hex(8)}")
