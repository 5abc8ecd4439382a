"""An HTTP/1.1 server whose streamed answers leave at exact moments, and which knows when requests came.

One thread waits for sockets and deadlines. A request has come when its last byte reached the network stack
(by the kernel's timestamp on Linux, else when it is read): how long this server takes to notice delays
nothing that is due later, and is not mistaken for the client's doing. The timestamps of its own writes tell
how late it was itself. Requests need a Content-Length. Knows nothing of what is asked and answered.
"""

import heapq
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from itertools import count
from typing import NamedTuple

_TICK_NS = 250_000
"""Deadlines closer together than this are met in one go, since each waking up costs."""
_POLL_NS = 1_000_000
"""A selector's time-out is in whole milliseconds."""
_READ_BYTES = 65_536
_WRITE_BYTES = 16_384
_BACKLOG = 1024

_SO_TIMESTAMPNS = 35  # asm-generic/socket.h; the socket module does not name it
_TIMESPEC = struct.Struct("@ll")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request; the names of its headers are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    arrived_ns: int
    """When its last byte arrived, by `time.perf_counter_ns`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """An answer in one piece, at once."""

    body: bytes
    status: int = 200


class Step(NamedTuple):
    """A piece of a stream and when it is due, in seconds after the request's arrival."""

    due_s: float
    data: bytes
    is_marked: bool = False
    """Whether its writing is to be told."""


class Cut(NamedTuple):
    """The moment at which the connection breaks."""

    due_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """An answer in pieces; those that are due together go out together."""

    steps: Iterable[Step | Cut]
    on_marked: Callable[[int, int], None]
    """Called with the timestamp taken just before marked steps are handed to the socket, and their number."""
    on_ended: Callable[[int], None]
    """Called with the timestamp taken just before the last steps are handed over, or the connection is
    cut."""
    on_broken_off: Callable[[], None]
    """Called when the client closes the connection before the end."""
    split_bytes: int = 0
    """Write in pieces of this many bytes, whatever they cut apart; 0 writes whole steps."""
    is_silent: bool = False
    """Not even headers are sent."""


class Server:
    """Listens on 127.0.0.1 from the moment it is made; `run` serves in the calling thread until `stop`."""

    def __init__(self, handler: Callable[[Request], Whole | Stream], port: int = 0) -> None:
        """Port 0 takes a free one."""
        self._handler = handler
        self._selector = selectors.DefaultSelector()
        self._deadlines: list[tuple[int, int, _Connection]] = []
        self._order = count()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=_BACKLOG)
        self._listener.setblocking(False)
        if sys.platform == "linux":
            self._listener.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)  # connections inherit it
        self._stopper, self._stopped = socket.socketpair()
        self._runs = True
        self.port: int = self._listener.getsockname()[1]

    def run(self) -> None:
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._stopped, selectors.EVENT_READ, self._stop)
        try:
            while self._runs:
                for key, events in self._selector.select(self._wait_s()):
                    key.data(events)
                self._meet_deadlines()
        finally:
            for key in tuple(self._selector.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]
            self._selector.close()

    def stop(self) -> None:
        """End `run`, from any thread; returns at once."""
        self._stopper.close()

    def _stop(self, _events: int) -> None:
        self._runs = False

    def _wait_s(self) -> float | None:
        """How long to wait for sockets until something is due; the rest below a millisecond is slept here."""
        if not self._deadlines:
            return None
        left_ns = self._deadlines[0][0] - time.perf_counter_ns()
        if 0 < left_ns < _POLL_NS:
            time.sleep(max(left_ns, _TICK_NS) / 1e9)
        return max(left_ns // _POLL_NS, 0) / 1e3

    def _meet_deadlines(self) -> None:
        now_ns = time.perf_counter_ns()
        while self._deadlines and self._deadlines[0][0] <= now_ns:
            heapq.heappop(self._deadlines)[2].send_due(now_ns)

    def _accept(self, _events: int) -> None:
        with suppress(BlockingIOError):
            while True:
                sock, _ = self._listener.accept()
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection = _Connection(sock, self._selector, self._handler, self._wake_at)
                self._selector.register(sock, selectors.EVENT_READ, connection.on_ready)

    def _wake_at(self, due_ns: int, connection: "_Connection") -> None:
        heapq.heappush(self._deadlines, (due_ns, next(self._order), connection))


class _Connection:
    """Answers one request after another."""

    def __init__(
        self,
        sock: socket.socket,
        selector: selectors.BaseSelector,
        handler: Callable[[Request], Whole | Stream],
        wake_at: Callable[[int, "_Connection"], None],
    ) -> None:
        self._sock = sock
        self._selector = selector
        self._handler = handler
        self._wake_at = wake_at
        self._reader = _RequestReader()
        self._unsent = b""
        self._progress: _Progress | None = None
        """The stream that is being sent; None between answers."""
        self._last = False
        """The connection ends with this answer."""
        self._closed = False

    def on_ready(self, events: int) -> None:
        try:
            if events & selectors.EVENT_READ:
                self._read()
            if events & selectors.EVENT_WRITE and not self._closed:
                self._send(b"")
                self._go_on()
        except ConnectionError:
            self._close()

    def send_due(self, now_ns: int) -> None:
        """Write what is due by now, and ask to be woken for the rest."""
        progress = self._progress
        if self._closed or progress is None:
            return
        data, marked = progress.take_due(now_ns)
        timestamp_ns = time.perf_counter_ns()
        if marked:
            progress.stream.on_marked(timestamp_ns, marked)
        if progress.due_ns is None:
            progress.stream.on_ended(timestamp_ns)
        size = progress.stream.split_bytes or max(len(data), 1)
        try:
            for start in range(0, len(data), size):
                self._send(_framed(data[start : start + size]))
            if progress.due_ns is None:
                self._progress = None
                if progress.is_cut:
                    self._close()
                    return
                self._send(_framed(b""))
            self._go_on()
        except ConnectionError:
            self._close()

    def _read(self) -> None:
        try:
            received, ancillary, _, _ = self._sock.recvmsg(_READ_BYTES, 64)
        except BlockingIOError:
            return
        if not received:
            self._close()
            return
        self._reader.feed(received, _arrival_ns(ancillary))
        self._go_on()

    def _go_on(self) -> None:
        """Once all is sent so far: the rest of the answer when it is due, the next request, or the end."""
        if self._unsent:
            return
        if self._progress:
            self._wake_for(self._progress)
        elif self._last:
            self._close()
        elif request := self._reader.take():
            self._last = request.headers.get("connection", "").lower() == "close"
            self._begin(self._handler(request), request)

    def _begin(self, answer: Whole | Stream, request: Request) -> None:
        if isinstance(answer, Whole):
            self._send(_head(answer.status, "application/json", f"Content-Length: {len(answer.body)}"))
            self._send(answer.body)
            self._go_on()
            return
        self._progress = _Progress(answer, request.arrived_ns)
        if not answer.is_silent:
            self._send(_head(200, "text/event-stream", "Transfer-Encoding: chunked"))
            self._go_on()

    def _wake_for(self, progress: "_Progress") -> None:
        if progress.due_ns is not None and not progress.is_awaited:
            progress.is_awaited = True
            # Not before now, so that streams without delays take turns.
            self._wake_at(max(progress.due_ns, time.perf_counter_ns()), self)

    def _send(self, data: bytes) -> None:
        was_blocked, data = bool(self._unsent), self._unsent + data
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        self._unsent = data[sent:]
        if was_blocked != bool(self._unsent):
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)
            self._selector.modify(self._sock, events, self.on_ready)

    def _close(self) -> None:
        self._closed = True
        if self._progress:
            self._progress.stream.on_broken_off()
        self._selector.unregister(self._sock)
        self._sock.close()


class _Progress:
    """How far a stream is."""

    def __init__(self, stream: Stream, arrived_ns: int) -> None:
        self.stream = stream
        self.is_awaited = False
        """Whether the server wakes the connection when the next step is due."""
        self.is_cut = False
        self._arrived_ns = arrived_ns
        self._steps = iter(stream.steps)
        self._next = next(self._steps, None)

    @property
    def due_ns(self) -> int | None:
        """When the next step is due; None if none is left."""
        return None if self._next is None else self._arrived_ns + round(self._next.due_s * 1e9)

    def take_due(self, now_ns: int) -> tuple[bytes, int]:
        """What is due by now, no more than keeps others waiting, and how many of its steps are marked."""
        self.is_awaited = False
        data, marked = bytearray(), 0
        while (due_ns := self.due_ns) is not None and due_ns <= now_ns and len(data) < _WRITE_BYTES:
            step = self._next
            if isinstance(step, Cut):
                self.is_cut, self._next = True, None
                break
            data += step.data
            marked += step.is_marked
            self._next = next(self._steps, None)
        return bytes(data), marked


class _RequestReader:
    """Puts requests together from what is read."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head: tuple[str, str, dict[str, str]] | None = None
        self._arrived_ns = 0

    def feed(self, received: bytes, arrived_ns: int) -> None:
        self._buffer += received
        self._arrived_ns = arrived_ns

    def take(self) -> Request | None:
        """The next request, once it is complete."""
        if self._head is None:
            head, end, rest = self._buffer.partition(b"\r\n\r\n")
            if not end:
                return None
            line, *fields = head.decode("latin-1").split("\r\n")
            method, path, _version = line.split(" ")
            pairs = (name_and_value.partition(":") for name_and_value in fields)
            self._head = method, path, {name.lower(): value.strip() for name, _, value in pairs}
            self._buffer = rest
        method, path, headers = self._head
        size = int(headers.get("content-length", 0))
        if len(self._buffer) < size:
            return None
        body = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._head = None
        return Request(method=method, path=path, headers=headers, body=body, arrived_ns=self._arrived_ns)


def _arrival_ns(ancillary: list[tuple[int, int, bytes]]) -> int:
    now_ns = time.perf_counter_ns()
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, _SO_TIMESTAMPNS):
            seconds, nanoseconds = _TIMESPEC.unpack(data)
            return now_ns - (time.time_ns() - seconds * 10**9 - nanoseconds)
    return now_ns


def _head(status: int, content_type: str, length: str) -> bytes:
    lines = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", f"Content-Type: {content_type}", length
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _framed(data: bytes) -> bytes:
    """As a chunk of the chunked transfer coding; nothing at all is its end."""
    return b"%x\r\n%b\r\n" % (len(data), data)
