"""Undoes the compression of a stream, piece by piece, for servers that compress although nobody asked for
it."""

import zlib
from typing import ClassVar

_MOST_PER_READ = 8 * 2**20
_ANY_HEADER = zlib.MAX_WBITS | 32
_ZLIB_METHOD = 8


class TooMuchData(Exception):
    """A small piece decompresses to more than any answer."""


class Inflater:
    """Gzip (also several members in a row), zlib and bare deflate streams."""

    ENCODINGS: ClassVar[tuple[str, ...]] = ("gzip", "x-gzip", "deflate")

    def __init__(self) -> None:
        self._stream: zlib._Decompress | None = None

    def feed(self, received: bytes) -> bytes:
        """What the bytes add to the text. Raises TooMuchData; damaged data ends the stream as a lost
        connection."""
        parts: list[bytes] = []
        left = _MOST_PER_READ
        while received:
            if self._stream is None:
                is_bare = received[0] & 0x0F != _ZLIB_METHOD and received[0] != 0x1F
                self._stream = zlib.decompressobj(-zlib.MAX_WBITS if is_bare else _ANY_HEADER)
            try:
                parts.append(self._stream.decompress(received, left + 1))
            except zlib.error as exc:
                raise ConnectionError(f"damaged compressed data: {exc}") from exc
            left -= len(parts[-1])
            if left < 0:
                raise TooMuchData
            received = self._stream.unused_data
            if self._stream.eof:
                self._stream = None
        return b"".join(parts)
