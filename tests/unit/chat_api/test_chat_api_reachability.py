from threading import Event

import pytest

from core.chat_api.reachability import GOOD_FOR_S, Reach, Reachability
from core.domain.specs import Dialect, Endpoint
from core.errors import ConfigError, EngineError

SERVER = Endpoint(url="http://gpu-host:23333/v1", model="tiny", dialect=Dialect.GENERIC)


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


class Server:
    """Answers when it is let, and counts how often it was asked."""

    def __init__(self):
        self.may_answer = Event()
        self.answers = [0.012]
        self.asked = 0

    def __call__(self, endpoint):
        assert endpoint is SERVER
        self.asked += 1
        assert self.may_answer.wait(30)
        answer = self.answers[min(self.asked, len(self.answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def reachability(server, clock):
    reachability = Reachability(server, now_s=clock)
    yield reachability
    server.may_answer.set()
    reachability.close()


def known(reachability, find=lambda: SERVER):
    """What is known once the server was asked; asking is over when a new thread gets its turn."""
    while (reach := reachability.of("lab", find)) is None:
        Event().wait(0.001)
    return reach


def test_nothing_is_known_before_the_first_answer_and_nobody_waits(reachability, server):
    assert reachability.of("lab", lambda: SERVER) is None
    assert reachability.of("lab", lambda: SERVER) is None
    server.may_answer.set()
    assert known(reachability) == Reach(round_trip_s=0.012)
    assert server.asked == 1


def test_a_server_is_asked_again_only_after_a_while(reachability, server, clock):
    server.may_answer.set()
    server.answers = [0.012, EngineError("Nobody listens there.", code="unreachable")]
    known(reachability)
    clock.now_s += GOOD_FOR_S
    assert known(reachability).error is None
    assert server.asked == 1
    clock.now_s += 1
    while (reach := known(reachability)).error is None:
        Event().wait(0.001)
    assert reach.error.message == "Nobody listens there."
    assert server.asked == 2


def test_an_endpoint_that_can_not_be_told_is_what_is_known(reachability):
    def find():
        raise ConfigError("There is no key lab.", hint="Set it.")

    assert known(reachability, find).error.message == "There is no key lab."
