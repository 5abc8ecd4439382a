import asyncio
import socket

import pytest

from core.chat_api.servers import (
    MAX_METRICS_CHARS,
    MAX_METRICS_LINE_CHARS,
    metrics_url,
    place_of,
    published_metrics,
)
from core.domain.specs import Dialect, Endpoint
from core.domain.turns import Place


def test_values_are_told_by_name_over_all_labels():
    text = '# TYPE a:b gauge\na:b{m="x, {y}"} 2.0\na:b{m="z"} 1e-3\nplain 4\n'
    assert published_metrics(text) == {"a:b": [2.0, 0.001], "plain": [4.0]}


def test_what_is_not_in_the_format_tells_nothing():
    assert published_metrics("<html>not found</html>") == {}
    assert published_metrics("") == {}


def test_a_line_or_a_page_without_end_is_left_out():
    endless = "x" * MAX_METRICS_LINE_CHARS
    assert published_metrics(f"a 1\n{endless}x\nb 2\n") == {"a": [1.0], "b": [2.0]}
    assert "late" not in published_metrics("a 1\n" * (MAX_METRICS_CHARS // 4) + "late 1\n")


def test_they_are_beside_the_version_path():
    assert (
        metrics_url("http://h:1/v1")
        == metrics_url("http://h:1/v1/")
        == metrics_url("http://h:1")
        == "http://h:1/metrics"
    )


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
