"""An HTTP server that sends exactly the bytes it is told, connection by connection, for tests of transports.

`answer` gets each request's body and its number on its connection, and returns bytes, or None to close the
connection without a word. A list of bytes is sent piece by piece, each in a packet of its own.

`on_model_time` runs server and client on a clock that stands still while either has work, so that a
slow machine makes nobody late.
"""

import asyncio
import json
import selectors
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

EVENTS = b'data: {"choices": [{"delta": {"content": "hello"}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
_TLS = b"\x16"
"""The first byte of a client's TLS handshake."""
Reply = bytes | list[bytes] | None
Result = TypeVar("Result")


@dataclass
class RawServer:
    url: str = ""
    connections: int = 0
    requests: list[tuple[str, dict]] = field(default_factory=list)
    """First line and JSON body of each."""
    headers: list[dict[str, str]] = field(default_factory=list)


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def response(
    body: bytes = EVENTS, *, status: int = 200, kind: str = "text/event-stream", headers: str = ""
) -> bytes:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


@asynccontextmanager
async def serving(answer: Callable[[dict, int], Reply]) -> AsyncIterator[RawServer]:
    server = RawServer()
    writers = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        writers.append(writer)
        number = 0
        try:
            first = await reader.read(1)
            if first == _TLS:
                writer.write(response(b"no HTTP", status=400))
                writer.close()
                return
            while head := first + await reader.readuntil(b"\r\n\r\n"):
                first = b""
                line, *fields = head.decode().strip().split("\r\n")
                pairs = (each.partition(":") for each in fields)
                headers = {name.lower(): value.strip() for name, _, value in pairs}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                document = json.loads(body) if body else {}
                server.requests.append((line, document))
                server.headers.append(headers)
                reply = answer({**document, "path": line.split()[1]}, number)
                number += 1
                if reply is None:
                    writer.close()
                    return
                for piece in reply if isinstance(reply, list) else [reply]:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0.01)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client or the test is done

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    try:
        yield server
    finally:
        listening.close()
        for writer in writers:
            writer.close()


class _ModelSelector(selectors.DefaultSelector):
    """Sockets as they are; where nothing is left to read, the wait for the next timer takes no time."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        # What was sent over the loopback already lies in its socket.
        events = super().select(0)
        if not events:
            self.now_s += timeout
        return events


class _ModelLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._model = _ModelSelector()
        super().__init__(self._model)

    def time(self) -> float:
        return self._model.now_s


def on_model_time(main: Coroutine[Any, Any, Result]) -> Result:
    """Run to the end, as asyncio.run does. Nothing in it may wait for a thread while a timer is set."""
    with asyncio.Runner(loop_factory=_ModelLoop) as runner:
        return runner.run(main)
