"""Reads what servers send, however they wrote it: JSON, text, counts and errors that are not quite what they
should be, and streams that are compressed although nobody asked for it.

Nothing here raises for a peer's mistake: what can't be read is None. An error that a body or event holds, in
whatever shape, becomes its words, status and code.
"""

import json
import re
import zlib
from contextlib import suppress
from email.utils import parsedate_to_datetime
from html.parser import HTMLParser
from typing import Any, ClassVar, NamedTuple

import orjson

from core.domain.turns import utc_now

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

_DEPTH = 6
_WORD_FIELDS = ("message", "msg", "detail", "error", "errors", "error_description", "description", "reason",
                "title", "text")  # fmt: skip
_NO_ERROR_CODES = frozenset({"", "0", "200", "ok", "success"})
_HTML = re.compile(rb"^\s*(?:<!doctype html|<html|<head|<body|<title|<h1)", re.IGNORECASE)
_NEWS = re.compile(r"ping|heartbeat|keep|status|info|start|progress", re.IGNORECASE)
_LONGEST_WAIT_S = 86_400.0


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


class ServerError(NamedTuple):
    """An error as a server worded it."""

    words: str
    status: int | None = None
    """The HTTP status, or the one that the error's own `code` names."""
    code: str = ""
    """The server's own word for it, such as `insufficient_quota`."""
    param: str = ""
    """The request's field that the server names."""
    retry_after_s: float | None = None


def error_of(body: object, status: int | None = None) -> ServerError | None:
    """The error that a JSON document holds; None if it is not one."""
    if isinstance(body, list):
        # Google wraps its errors in a list.
        return next((error for item in body[:3] if (error := error_of(item, status))), None)
    if not isinstance(body, dict):
        return None
    response = body.get("base_resp")  # MiniMax has its errors there, beside choices too
    if isinstance(response, dict) and _is_code(code := response.get("status_code")):
        return ServerError(words_of(response.get("status_msg")), status, str(code))
    if not _is_error(body):
        return None
    inner = body.get("error")
    source = inner if isinstance(inner, dict) and inner else body
    codes = [source[name] for name in ("code", "error_code", "status", "type") if _is_code(source.get(name))]
    param = source.get("param")
    return ServerError(
        words_of(inner if inner and inner is not True else body),
        status or next(filter(None, map(_status, codes)), None),
        " ".join(map(str, codes)),
        param if isinstance(param, str) else "",
    )


def refused(status: int, body: bytes, retry_after: str | None = None) -> ServerError:
    """The error of an answer with an HTTP status other than 200, in any shape."""
    document = json_document(body)
    error = error_of(document, status)
    if error is None:
        words = page_text(body) if is_html(body) else (
            _page_decoded(body) if document is UNREADABLE or isinstance(document, str) else words_of(document)
        )  # fmt: skip
        error = ServerError(one_line(words), status)
    return error._replace(retry_after_s=_seconds(retry_after))


def words_of(value: object, depth: int = 0) -> str:
    """The words for people in a JSON value: messages without the document around them."""
    if isinstance(value, str):
        return one_line(value)
    if depth < _DEPTH:
        if isinstance(value, list):
            return one_line("; ".join(filter(None, (words_of(item, depth + 1) for item in value[:8]))))
        if isinstance(value, dict):
            for name in _WORD_FIELDS:
                if inner := value.get(name):
                    words = words_of(inner, depth + 1)
                    place = _place(value.get("loc"))
                    return f"{place}: {words}" if place else words
    return "" if value in (None, {}, []) else one_line(_compact(value))


def is_html(body: bytes) -> bool:
    return bool(_HTML.match(stripped(body[:1024])))


def page_text(body: bytes) -> str:
    """Return what a web page shows: its title and text without markup, scripts and styles."""
    reader = _PageReader()
    with suppress(AssertionError):  # the standard library's way to refuse `<![x`; the text before it is kept
        reader.feed(body[: 2**16].decode("utf-8", "replace"))
    return one_line(" ".join(dict.fromkeys(reader.texts)))


def _is_error(body: dict[str, Any]) -> bool:
    """Whether an object tells an error: by a field for nothing else, or by one that only errors have without
    choices."""
    if _truthy(body.get("error")) or _is_code(body.get("error_code")):
        return True
    if body.get("choices"):
        return False
    return (
        bool(body.get("detail") or body.get("errors"))
        or _is_code(body.get("code"))
        or "error" in (body.get("object"), body.get("type"), body.get("status"))
        or body.get("success") is False
        or (isinstance(body.get("message"), str) and not _is_news(body))
    )


def _is_news(body: dict[str, Any]) -> bool:
    """Whether a message is progress, not an error (`{"type": "ping", "message": …}`)."""
    kind = body.get("type") or body.get("event")
    return "usage" in body or (isinstance(kind, str) and bool(_NEWS.search(kind)))


def _truthy(error: object) -> bool:
    return bool(error) and error not in ("null", "None")


def _is_code(code: object) -> bool:
    return (
        isinstance(code, str | int)
        and not isinstance(code, bool)
        and str(code).lower() not in _NO_ERROR_CODES
    )


def _status(code: object) -> int | None:
    """The HTTP status that a code is, if it is one."""
    digits = str(code)
    return int(digits) if re.fullmatch("[45][0-9]{2}", digits) else None


def _place(loc: object) -> str:
    """`body.top_k`: where in the request FastAPI found a fault."""
    return ".".join(str(part) for part in loc) if isinstance(loc, list) else ""


def _compact(value: object) -> str:
    try:
        return orjson.dumps(value, default=str).decode()
    except (TypeError, ValueError):
        return str(value)


def _page_decoded(body: bytes) -> str:
    return body[:4096].decode("utf-8", "replace")


def _seconds(retry_after: str | None) -> float | None:
    """A `Retry-After` header as seconds from now; None without one that can be read."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(retry_after) - utc_now()).total_seconds()
        except (TypeError, ValueError):
            return None
    return seconds if 0 <= seconds <= _LONGEST_WAIT_S else None


class _PageReader(HTMLParser):
    """Collects a page's texts."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        self._hidden += tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style") and self._hidden > 0

    def handle_data(self, data: str) -> None:
        if not self._hidden and (text := data.strip()):
            self.texts.append(text)
