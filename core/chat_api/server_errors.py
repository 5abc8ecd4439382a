"""The error that a server's body or event holds, in whatever shape, as its words, status and code."""

import re
from contextlib import suppress
from email.utils import parsedate_to_datetime
from html.parser import HTMLParser
from typing import Any, NamedTuple

import orjson

from core.chat_api.lenient import UNREADABLE, json_document, one_line, stripped
from core.domain.turns import utc_now

_DEPTH = 6
_WORD_FIELDS = ("message", "msg", "detail", "error", "errors", "error_description", "description", "reason",
                "title", "text")  # fmt: skip
_NO_ERROR_CODES = frozenset({"", "0", "200", "ok", "success"})
_HTML = re.compile(rb"^\s*(?:<!doctype html|<html|<head|<body|<title|<h1)", re.IGNORECASE)
_NEWS = re.compile(r"ping|heartbeat|keep|status|info|start|progress", re.IGNORECASE)
_LONGEST_WAIT_S = 86_400.0


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
            _decoded(body) if document is UNREADABLE or isinstance(document, str) else words_of(document)
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


def _decoded(body: bytes) -> str:
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
