import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.timed_http import Cut, Request, Server, Step, Stream, Whole

BIG = b"x" * 16_000_000
"""More than the sockets of one connection hold."""


class Handler:
    """Answers by path; keeps what it was told."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.marked: list[tuple[int, int]] = []
        self.ended_ns: list[int] = []
        self.broken_off = threading.Event()
        self.held, self.released = threading.Event(), threading.Event()

    def __call__(self, request: Request) -> Whole | Stream:
        self.requests.append(request)
        steps: list[Step | Cut] = []
        match request.path:
            case "/echo":
                return Whole(body=request.body)
            case "/hold":
                self.held.set()
                assert self.released.wait(10)
                return Whole(body=b"held")
            case "/stream":
                steps = [Step(0, b"a"), Step(0, b"b", True), Step(0.05, b"c", True), Step(0.05, b"d", True)]
            case "/cut":
                steps = [Step(0, b"a"), Cut(0.01), Step(0, b"never")]
            case "/big":
                steps = [Step(0, BIG), Step(0, b"end", True)]
            case "/slow":
                steps = [Step(0, b"a"), Step(60, b"b")]
        return Stream(
            steps=steps,
            on_marked=lambda *marked: self.marked.append(marked),
            on_ended=self.ended_ns.append,
            on_broken_off=self.broken_off.set,
            split_bytes=1 if request.path == "/stream" else 0,
            is_silent=request.path == "/silent",
        )


@pytest.fixture
def handler() -> Handler:
    return Handler()


@pytest.fixture
def server(handler: Handler) -> Iterator[Server]:
    server = Server(handler)
    thread = threading.Thread(target=server.run)
    thread.start()
    yield server
    handler.released.set()
    server.stop()
    thread.join(10)
    assert not thread.is_alive()


@contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        yield connection


def post(path: str, body: bytes = b"", *, closes: bool = True) -> bytes:
    last = "Connection: close\r\n" if closes else ""
    return f"POST {path} HTTP/1.1\r\nContent-Length: {len(body)}\r\n{last}\r\n".encode() + body


def read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65_536), b""))


def test_connection_is_kept_for_further_requests(server, handler):
    with connected(server) as connection:
        connection.sendall(post("/echo", b"one", closes=False) + post("/echo", b"two"))
        answers = read_all(connection)
    assert answers.count(b"HTTP/1.1 200 OK") == 2
    assert b"\r\n\r\none" in answers
    assert answers.endswith(b"\r\n\r\ntwo")


def test_steps_that_are_due_together_are_split_as_told_and_marked_once_a_write(server, handler):
    with connected(server) as connection:
        connection.sendall(post("/stream"))
        answer = read_all(connection)
    assert answer.endswith(b"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n1\r\nd\r\n0\r\n\r\n")
    assert [steps for _, steps in handler.marked] == [1, 2]
    assert handler.ended_ns == [handler.marked[-1][0]]


def test_nothing_leaves_before_it_is_due(server, handler):
    with connected(server) as connection:
        connection.sendall(post("/stream"))
        read_all(connection)
    assert handler.marked[1][0] - handler.requests[0].arrived_ns >= 50_000_000


def test_request_has_arrived_with_its_last_byte(server, handler):
    with connected(server) as connection:
        connection.sendall(post("/echo", b"slow")[:-1])
        time.sleep(0.05)
        before_ns = time.perf_counter_ns()
        connection.sendall(b"w")
        read_all(connection)
    assert handler.requests[0].body == b"slow"
    clock_offset_ns = 20_000_000  # the kernel's clock is converted to this process's, a little off under load
    assert handler.requests[0].arrived_ns >= before_ns - clock_offset_ns


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's timestamps are Linux's")
def test_request_that_waits_for_a_busy_server_has_arrived_already(server, handler):
    with connected(server) as first, connected(server) as second:
        first.sendall(post("/hold"))
        assert handler.held.wait(10)
        second.sendall(post("/echo", b"me"))
        sent_ns = time.perf_counter_ns()
        time.sleep(0.1)
        handler.released.set()
        read_all(second)
    # Two clocks are compared, which a correction of the wall clock may part by some microseconds.
    assert handler.requests[1].arrived_ns < sent_ns + 50_000_000


def test_reader_that_takes_its_time_gets_everything(server, handler):
    with connected(server) as connection:
        connection.sendall(post("/big"))
        begin = connection.recv(1000)
        time.sleep(0.05)
        assert not handler.marked  # it is stuck in the first piece
        answer = begin + read_all(connection)
    assert answer.endswith(b"\r\n\r\n%x\r\n%b\r\n3\r\nend\r\n0\r\n\r\n" % (len(BIG), BIG))


def test_cut_breaks_the_connection_in_mid_stream(server, handler):
    with connected(server) as connection:
        connection.sendall(post("/cut"))
        answer = read_all(connection)
    assert answer.endswith(b"1\r\na\r\n")
    assert not handler.broken_off.is_set()  # it was not the client
    assert handler.ended_ns[0] - handler.requests[0].arrived_ns >= 10_000_000


@pytest.mark.parametrize("path", ["/slow", "/silent"])
def test_client_that_leaves_early_is_noticed(server, handler, path):
    with connected(server) as connection:
        connection.sendall(post(path))
        if path == "/slow":
            assert connection.recv(65_536)
    assert handler.broken_off.wait(10)


def test_complete_answer_is_not_broken_off(server, handler):
    with connected(server) as connection:
        connection.sendall(post("/stream"))
        read_all(connection)
    with connected(server) as connection:  # so that the first one's end was seen
        connection.sendall(post("/echo"))
        read_all(connection)
    assert not handler.broken_off.is_set()
