import asyncio
import socket

import pytest

from core.chat_api.servers import place_of
from core.domain.specs import Dialect, Endpoint
from core.domain.turns import Place


def server(host, node=None):
    return Endpoint(url=f"http://{host}:23333/v1", model="m", dialect=Dialect.GENERIC, node=node)


def place(endpoint, **more):
    return asyncio.run(place_of(endpoint, **more))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "127.0.0.3"])
def test_this_machine_is_reached_over_no_network(host):
    assert place(server(host)).over_network is False


def test_an_address_of_another_machine_is_reached_over_one():
    # 192.0.2.0/24 is reserved for documentation: no machine has such an address.
    assert place(server("192.0.2.7", "gpu1")) == Place(node="gpu1", over_network=True)


def test_a_name_of_this_machine_is_reached_over_no_network(monkeypatch):
    answer = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.1.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_more: answer)
    assert place(server("this-host")).over_network is False


def test_a_name_without_an_address_is_unknown(monkeypatch):
    def refuse(*_args, **_more):
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert place(server("nowhere.invalid")).over_network is None


def test_processes_on_the_engines_node_reach_it_over_no_network():
    assert place(server("192.0.2.7", "gpu1"), measured_on="gpu1").over_network is False
    assert place(server("192.0.2.7", "gpu1"), measured_on="gpu2").over_network is True
