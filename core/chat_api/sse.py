"""Server-sent events, cut out of a byte stream as it arrives.

Knows the wire format (WHATWG HTML, "Interpreting an event stream") and nothing of what the events mean.
Ids, retry hints and comments are skipped. Lines that belong to no event stream, such as those of a web page,
are kept up to a size, so that it can be said what came instead.
"""

from typing import NamedTuple

MAX_EVENT_BYTES = 8 * 2**20
"""Far above a whole answer in one event; no server that means well sends more."""
_MAX_STRAY_BYTES = 2**20
_BOM = b"\xef\xbb\xbf"
_FIELDS = (b"event", b"id", b"retry", b"data")


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
