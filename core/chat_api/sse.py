"""Server-sent events, cut out of a byte stream as it arrives.

Knows the wire format (WHATWG HTML, "Interpreting an event stream") and nothing of what the events mean.
Only `data` fields matter to chat streams: event names, ids, retry hints and comments are skipped.
"""


class EventSplitter:
    """Turns reads of any size into the data of whole events. Not thread-safe.

    Works on bytes, so a character split over two reads is whole again before anybody decodes it.
    """

    __slots__ = ("_after_cr", "_data", "_tail")

    def __init__(self) -> None:
        self._tail = b""
        self._data: list[bytes] = []
        self._after_cr = False

    def feed(self, received: bytes) -> list[bytes]:
        """The data of the events that `received` completes, in order."""
        if self._after_cr and received:
            # The read before ended in CR, which already counted as a line end; LF would be its other half.
            received = received.removeprefix(b"\n")
            self._after_cr = False
        if b"\r" in received:
            self._after_cr = received.endswith(b"\r")
            received = received.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = (self._tail + received).split(b"\n")
        self._tail = lines.pop()
        return self._events(lines)

    def close(self) -> list[bytes]:
        """What an event without its closing blank line held; some servers leave out the last newline."""
        lines, self._tail = [self._tail, b""], b""
        return self._events(lines)

    def _events(self, lines: list[bytes]) -> list[bytes]:
        events = []
        data = self._data
        for line in lines:
            if not line:
                if data:
                    events.append(data[0] if len(data) == 1 else b"\n".join(data))
                    data.clear()
            elif line.startswith(b"data: "):
                data.append(line[6:])
            elif line.startswith(b"data:"):
                data.append(line[5:])
            elif line == b"data":
                data.append(b"")
        return events
