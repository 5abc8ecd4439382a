"""Events of a chat stream: cut out of a byte stream as it arrives, and read from any server.

Cutting knows the wire format (WHATWG HTML, "Interpreting an event stream") and nothing of what the events
mean. Ids, retry hints and comments are skipped. Lines that belong to no event stream, such as those of a web
page, are kept up to a size, so that it can be said what came instead.

Reading checks the types of all that is kept, and nothing raises: an event that can't be understood says so.
Fields that nobody here needs may hold anything.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

from core.chat_api.lenient import UNREADABLE, ServerError, count, error_of, json_document, stripped, words_of

MAX_EVENT_BYTES = 8 * 2**20
"""Far above a whole answer in one event; no server that means well sends more."""
_MAX_STRAY_BYTES = 2**20
_BOM = b"\xef\xbb\xbf"
_FIELDS = (b"event", b"id", b"retry", b"data")

_DONE = b"[DONE]"
_REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking", "reasoning_text")
_REASONING_PARTS = frozenset({"thinking", "reasoning", "reasoning.text", "reasoning_text"})
_NO_REASON = frozenset({"", "null", "none"})
_PART_FIELDS = ("text", "thinking", "reasoning", "content")
_PARTS_DEPTH = 6


class Event(NamedTuple):
    """One event of a stream."""

    data: bytes
    name: bytes = b""
    """Of the `event` field; chat streams leave it out, apart from some that name their errors."""


class EventTooLarge(Exception):
    """One line or event is larger than `MAX_EVENT_BYTES`."""


class EventSplitter:
    """Turns reads of any size into whole events. Not thread-safe.

    Works on bytes, so a character split over two reads is whole again before anybody decodes it. Each byte is
    looked at and copied a bounded number of times, whatever the reads' sizes, and at most `MAX_EVENT_BYTES`
    are kept.
    """

    __slots__ = ("_after_cr", "_data", "_data_bytes", "_name", "_started", "_tail", "stray")

    def __init__(self) -> None:
        self.stray = bytearray()
        """What came in lines that are no part of an event stream, up to 1 MiB."""
        self._tail = bytearray()
        self._data: list[bytes] = []
        self._data_bytes = 0
        self._name = b""
        self._after_cr = False
        self._started = False

    def feed(self, received: bytes) -> list[Event]:
        """The events that `received` completes, in order. Raises EventTooLarge."""
        if not received:
            return []
        if self._after_cr:
            # The read before ended in CR, which already counted as a line end; LF would be its other half.
            received = received.removeprefix(b"\n")
            self._after_cr = False
        if b"\r" in received:
            self._after_cr = received.endswith(b"\r")
            received = received.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        first, newline, rest = received.partition(b"\n")
        self._tail += first
        if len(self._tail) > MAX_EVENT_BYTES:
            raise EventTooLarge
        if not newline:
            return []
        lines = [bytes(self._tail), *rest.split(b"\n")]
        self._tail = bytearray(lines.pop())
        return self._events(lines)

    def close(self) -> list[Event]:
        """Return what an event without its closing blank line held; some servers leave out the last
        newline.
        """
        lines, self._tail = [bytes(self._tail), b""], bytearray()
        return self._events(lines)

    def _events(self, lines: list[bytes]) -> list[Event]:
        events = []
        data = self._data
        if not self._started:
            self._started = True
            lines[0] = lines[0].removeprefix(_BOM)
        for line in lines:
            if not line:
                if data:
                    events.append(Event(data[0] if len(data) == 1 else b"\n".join(data), self._name))
                    data.clear()
                    self._data_bytes = 0
                self._name = b""
            elif line.startswith(b"data:"):
                value = line[6:] if line.startswith(b"data: ") else line[5:]
                data.append(value)
                self._data_bytes += len(value) + 1
                if self._data_bytes > MAX_EVENT_BYTES:
                    raise EventTooLarge
            elif not line.startswith(b":"):
                self._other_field(line)
        return events

    def _other_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name not in _FIELDS:
            self.stray += line[: _MAX_STRAY_BYTES - len(self.stray)] + b"\n"
            del self.stray[_MAX_STRAY_BYTES:]
        elif name == b"event":
            self._name = value.strip()
        elif name == b"data":
            self._data.append(b"")
            self._data_bytes += 1


class Usage(NamedTuple):
    """Token counts as the server sent them; None if a value is not a count."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None

    def merged(self, later: "Usage") -> "Usage":
        """Field by field what came later, unless it says nothing or takes a count back to 0."""
        return Usage(*(new or old if old is not None else new for old, new in zip(self, later, strict=True)))


class StreamEvent(NamedTuple):
    """One event of a chat stream."""

    has_choices: bool = False
    content: str = ""
    reasoning: str = ""
    message: str = ""
    """Content of a whole `message`, which some servers send instead of pieces and some beside them."""
    calls_tool: bool = False
    tokens: int | None = None
    """Output tokens that the event names by their ids; None if it names none."""
    tokens_so_far: int | None = None
    """Output tokens of the answer up to here, by llama.cpp's `timings`."""
    finish_reason: str | None = None
    """In the server's own words."""
    usage: Usage | None = None
    error: ServerError | None = None
    model: str | None = None
    is_done: bool = False
    """`[DONE]`: nothing follows."""
    strange: str = ""
    """What came instead, if the event can't be understood: its beginning."""


_IGNORED = StreamEvent()


class _Texts:
    """Content and reasoning out of a text, or out of a list of parts (Mistral, Anthropic)."""

    __slots__ = ("content", "is_odd", "reasoning")

    def __init__(self, value: object = None, *, as_reasoning: bool = False) -> None:
        self.content = ""
        self.reasoning = ""
        self.is_odd = False
        """Something was neither text nor a part: it can't be understood."""
        self._add(value, as_reasoning, 0)

    def _add(self, value: object, as_reasoning: bool, depth: int) -> None:
        if isinstance(value, str):
            if as_reasoning:
                self.reasoning += value
            else:
                self.content += value
        elif isinstance(value, list) and depth < _PARTS_DEPTH:
            for part in value:
                self._add(part, as_reasoning, depth + 1)
        elif isinstance(value, dict) and depth < _PARTS_DEPTH:
            inner = next((value[name] for name in _PART_FIELDS if value.get(name)), None)
            kind = value.get("type")
            thinks = isinstance(kind, str) and kind in _REASONING_PARTS
            self._add(inner, as_reasoning or thinks, depth + 1)
        elif value:
            self.is_odd = True


def read_event(event: Event) -> Iterable[StreamEvent]:
    """Return what an event says: one thing, or several where a server left out the blank lines
    between events.
    """
    data = stripped(event.data)
    if not data:
        return ()
    document = UNREADABLE if data == _DONE else json_document(data)
    if document is UNREADABLE and b"\n" in data:
        return [part for line in data.split(b"\n") for part in read_event(Event(line, event.name))]
    return (_read(data, document, is_error=event.name == b"error"),)


def _read(data: bytes, document: Any, *, is_error: bool) -> StreamEvent:  # noqa: ANN401 - JSON
    if data == _DONE:
        return StreamEvent(is_done=True)
    if is_error:
        words = data.decode("utf-8", "replace") if document is UNREADABLE else words_of(document)
        return StreamEvent(error=error_of(document) or ServerError(words))
    if isinstance(document, list) and (error := error_of(document)):
        return StreamEvent(error=error)
    if document is None:
        return _IGNORED
    if isinstance(document, dict):
        return _of_object(document, data)
    return _unescaped_error(data) or StreamEvent(strange=_beginning(data))


def _of_object(event: dict[str, Any], data: bytes) -> StreamEvent:
    choices = event.get("choices")
    usage = _usage(event.get("usage"))
    timings = event.get("timings")
    tokens_so_far = None
    if type(timings) is dict:
        usage = (usage or Usage()).merged(_timings_usage(timings))
        tokens_so_far = count(timings.get("predicted_n"))
    model = event.get("model")
    if type(model) is not str:
        model = None
    error = error_of(event)
    if not choices or choices == [None]:
        return StreamEvent(bool(choices), usage=usage, error=error, model=model)
    choice = _first_choice(choices) if type(choices) is list else None
    if type(choice) is dict and error is None:
        error = error_of({"error": choice.get("error")})
    delta = choice.get("delta") or {} if type(choice) is dict else None
    if type(choice) is not dict or type(delta) is not dict:
        return StreamEvent(usage=usage, error=error, model=model, strange=_beginning(data))
    content, reasoning, is_odd = delta.get("content"), "", False
    if type(content) is not str:
        texts = _Texts(content)
        content, reasoning, is_odd = texts.content, texts.reasoning, texts.is_odd
    reasoning = _reasoning(delta) or reasoning
    if not content:
        content = _Texts(delta.get("refusal")).content or (
            "" if delta else _Texts(choice.get("text")).content
        )
    token_ids = choice.get("output_ids")
    if token_ids is None:
        token_ids = choice.get("token_ids")
    return StreamEvent(
        True,
        content,
        reasoning,
        "" if content else _message(choice.get("message")),
        bool(delta.get("tool_calls") or delta.get("function_call")),
        len(token_ids) if type(token_ids) is list else None,
        tokens_so_far,
        _finish_reason(choice.get("finish_reason")),
        usage,
        error,
        model,
        strange=_beginning(data) if is_odd else "",
    )


def _first_choice(choices: list[Any]) -> object:
    """The one answer that is asked for, should a server send more of them side by side."""
    if len(choices) > 1:
        for choice in choices:
            if type(choice) is dict and choice.get("index") == 0:
                return choice
    return choices[0]


def _reasoning(delta: dict[str, Any]) -> str:
    for name in _REASONING_FIELDS:
        if value := delta.get(name):
            return value if type(value) is str else _Texts(value, as_reasoning=True).reasoning
    details = delta.get("reasoning_details")
    return _Texts(details, as_reasoning=True).reasoning if details else ""


def _message(message: object) -> str:
    return _Texts(message.get("content")).content if isinstance(message, dict) else ""


def _finish_reason(value: object) -> str | None:
    if isinstance(value, dict):
        value = value.get("type")
    if not isinstance(value, str) or value.strip().lower() in _NO_REASON:
        return None
    return value.strip()


def _usage(usage: object) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details")
    cached = count(details.get("cached_tokens")) if isinstance(details, dict) else None
    return Usage(
        _first_count(usage, "prompt_tokens", "input_tokens"),
        _first_count(usage, "completion_tokens", "output_tokens"),
        cached if cached is not None else count(usage.get("prompt_cache_hit_tokens")),
    )


def _timings_usage(timings: dict[str, Any]) -> Usage:
    """llama.cpp's own counts: `prompt_n` are the prompt tokens that were not in the cache."""
    prompt, cached = count(timings.get("prompt_n")), count(timings.get("cache_n"))
    whole = prompt + cached if prompt is not None and cached is not None else None
    return Usage(whole, count(timings.get("predicted_n")), cached)


def _first_count(usage: dict[str, Any], *names: str) -> int | None:
    return next((value for name in names if (value := count(usage.get(name))) is not None), None)


def _unescaped_error(data: bytes) -> StreamEvent | None:
    """`transformers serve` puts an error's text into JSON without escaping it (`_StreamError`)."""
    prefix, suffix = b'{"error": "', b'"}'
    if data.startswith(prefix) and data.endswith(suffix):
        return StreamEvent(error=ServerError(data[len(prefix) : -len(suffix)].decode("utf-8", "replace")))
    return None


def _beginning(data: bytes) -> str:
    return data[:200].decode("utf-8", "replace")
