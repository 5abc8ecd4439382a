"""The shelf: one file a picture, named by the hash of its content. Messages keep only the hash.

Nothing but a checked hash ever becomes part of a path. Files that were removed or changed from outside
cost their own pictures a clear message, nothing else.
"""

import base64
import hashlib
import os
import re
import secrets
from functools import lru_cache
from io import BytesIO
from pathlib import Path

from PIL import Image

from core.domain.pictures import Picture
from core.errors import StoreError
from core.pictures.intake import CheckedPicture
from core.pictures.kinds import Kind, kind_of

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MEDIA_TYPES = {Kind.PNG: "image/png", Kind.JPEG: "image/jpeg"}
_THUMBNAILS = 512
_THUMBNAIL_QUALITY = 85


class Shelf:
    """Pictures in one folder, which is made when the first one comes. Thread-safe and process-safe."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shrunk = lru_cache(maxsize=_THUMBNAILS)(self._shrink)

    def put(self, checked: CheckedPicture) -> Picture:
        """Store the picture unless its file is there and whole already.

        Raises:
            StoreError: `picture-not-stored`: no space, or no right to write.
        """
        picture = checked.picture
        if self._content(picture) is None:
            try:
                _write(self._path(picture), checked.data)
            except OSError as exc:
                raise StoreError(
                    f"{_subject(picture)} can't be stored: {exc.strerror or exc}.",
                    hint=f"Make sure that {self._folder} can be written and that the disk has space.",
                    code="picture-not-stored",
                ) from exc
        return picture

    def read(self, picture: Picture) -> bytes:
        """The picture's bytes, compared with its hash.

        Raises:
            StoreError: `picture-missing`: the file is gone, can't be read or is not what was stored.
        """
        content = self._content(picture)
        if content is None:
            raise StoreError(
                f"{_subject(picture)} is no longer on this machine, or its file was changed.",
                hint="Ask again with the picture added again.",
                code="picture-missing",
            )
        return content

    def data_url(self, picture: Picture) -> str:
        """What a message carries, with the type that the bytes have; raises StoreError like `read`."""
        return data_url(self.read(picture))

    def thumbnail(self, picture: Picture, side_px: int) -> bytes | None:
        """The picture in its own type, at most `side_px` wide and high. None if its file is gone or damaged.

        The last few hundred stay in memory.
        """
        try:
            return self._shrunk(picture, side_px) if self._path(picture).is_file() else None
        except StoreError:
            return None

    def _shrink(self, picture: Picture, side_px: int) -> bytes:
        content, buffer = self.read(picture), BytesIO()
        kind = kind_of(content)
        with Image.open(BytesIO(content), formats=(kind,)) as image:
            image.thumbnail((side_px, side_px))
            image.save(buffer, kind, quality=_THUMBNAIL_QUALITY)
        return buffer.getvalue()

    def _content(self, picture: Picture) -> bytes | None:
        """None unless the file has the hash that names it."""
        try:
            content = self._path(picture).read_bytes()
        except OSError:
            return None
        return content if hashlib.sha256(content).hexdigest() == picture.sha256 else None

    def _path(self, picture: Picture) -> Path:
        # Records come from other machines, too: what is no hash has no file, and is no path.
        name = picture.sha256 if _SHA256.fullmatch(picture.sha256) else "0" * 64
        return self._folder / name[:2] / name


def data_url(content: bytes) -> str:
    """A PNG's or JPEG's bytes as an address of its own."""
    return f"data:{_MEDIA_TYPES[kind_of(content)]};base64,{base64.b64encode(content).decode('ascii')}"


def _subject(picture: Picture) -> str:
    return f"The picture {picture.name}".rstrip()


def _write(path: Path, data: bytes) -> None:
    """All or nothing; whoever writes the same picture at the same time writes the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
