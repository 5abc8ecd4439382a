"""Reads what servers send, however they wrote it: JSON, text and counts that are not quite what they should
be, and streams that are compressed although nobody asked for it.

Nothing here raises for a peer's mistake: what can't be read is None.
"""

import json
import re
import zlib
from typing import Any, ClassVar

import orjson

LARGEST_COUNT = 2**31 - 1
"""Above any token count, and what the store's columns hold."""

_BLANK = b" \t\r\n\x00\xef\xbb\xbf"
"""What may stand around a document: white space, NUL and a byte order mark."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_PAIR = re.compile("([\ud800-\udbff])([\udc00-\udfff])")
_RAW_BYTES = re.compile("[\udc80-\udcff]+")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]+")
_SPACES = re.compile(r"\s+")
_MOST_PER_READ = 8 * 2**20
_ANY_HEADER = zlib.MAX_WBITS | 32
_ZLIB_METHOD = 8


class Unreadable:
    """Stands for a document that is no JSON."""


UNREADABLE = Unreadable()


def stripped(data: bytes) -> bytes:
    """Without blanks and byte order marks around it."""
    return data.strip(_BLANK)


def json_document(data: bytes) -> Any:  # noqa: ANN401 - JSON
    """Return what the bytes say; `UNREADABLE` for what is no JSON even with NaN, bad UTF-8 and lone
    surrogates let pass.

    Bytes that are no UTF-8 stay in the texts as lone surrogates, so that `TextJoiner` can put a character
    that was cut in two together.
    """
    data = stripped(data)
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(data.decode("utf-8", "surrogateescape"), strict=False)
    except (ValueError, RecursionError):
        return UNREADABLE


def well_formed(text: str) -> str:
    """The text with surrogate pairs as the characters they mean, and lone ones as U+FFFD."""
    if text.isascii() or not _SURROGATE.search(text):
        return text
    joiner = TextJoiner()
    return joiner.feed(text) + joiner.close()


def count(value: object) -> int | None:
    """A number of tokens; None for anything but a whole number from 0 on that can be one."""
    return value if type(value) is int and 0 <= value <= LARGEST_COUNT else None


def one_line(text: str, limit: int = 400) -> str:
    """Words from elsewhere in one line that no terminal obeys, cut at a readable length."""
    line = _SPACES.sub(" ", _CONTROL.sub(" ", well_formed(text[: 4 * limit]))).strip()
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


class TextJoiner:
    """Puts together characters that a stream cut in two: halves of a surrogate pair, and bytes of one
    character.

    What waits for its other half comes with the next piece, or as U+FFFD at the end.
    """

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        """The text that is complete now."""
        if not self._held and (text.isascii() or not _SURROGATE.search(text)):
            return text
        text = _PAIR.sub(_joined, self._held + text)
        self._held = ""
        if text and "\ud800" <= text[-1] <= "\udbff":
            text, self._held = text[:-1], text[-1]
        else:
            text = self._hold_cut_bytes(text)
        return _SURROGATE.sub("\ufffd", _RAW_BYTES.sub(_decoded, text))

    def close(self) -> str:
        """Return what is still held, when nothing follows."""
        held, self._held = self._held, ""
        return "\ufffd" if held else ""

    def _hold_cut_bytes(self, text: str) -> str:
        """Keep the beginning of a UTF-8 sequence at the text's end for the next piece."""
        run = _RAW_BYTES.search(text, max(0, len(text) - 3))
        while run and run.end() < len(text):
            run = _RAW_BYTES.search(text, run.end())
        if run is None:
            return text
        tail = run[0].encode("utf-8", "surrogateescape")
        for length in range(1, len(tail) + 1):
            if _begins_character(tail[-length:]):
                self._held = text[len(text) - length :]
                return text[: len(text) - length]
        return text


def _begins_character(data: bytes) -> bool:
    """Whether the bytes are a UTF-8 sequence that lacks its end."""
    try:
        data.decode()
    except UnicodeDecodeError as exc:
        return exc.start == 0 and exc.reason == "unexpected end of data"
    return False


def _joined(pair: re.Match[str]) -> str:
    high, low = map(ord, pair.groups())
    return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))


def _decoded(run: re.Match[str]) -> str:
    return run[0].encode("utf-8", "surrogateescape").decode("utf-8", "replace")


class TooMuchData(Exception):
    """A small piece decompresses to more than any answer."""


class Inflater:
    """Gzip (also several members in a row), zlib and bare deflate streams."""

    ENCODINGS: ClassVar[tuple[str, ...]] = ("gzip", "x-gzip", "deflate")

    def __init__(self) -> None:
        self._stream: zlib._Decompress | None = None

    def feed(self, received: bytes) -> bytes:
        """Return what the bytes add to the text. Raises TooMuchData; damaged data ends the stream as a lost
        connection.
        """
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
