"""The real server with the project's own configuration: who may open its websocket."""

import base64
import http.client
import os
import socket
import subprocess
import sys
from time import monotonic, sleep

import pytest

from core.settings import PROJECT_ROOT

START_S = 60
LOCAL = ("localhost", "127.0.0.1", "[::1]")


@pytest.fixture(scope="module")
def port(tmp_path_factory):
    """The port of a server with an app of one line; the configuration is what is tested."""
    script = tmp_path_factory.mktemp("app") / "app.py"
    script.write_text("import streamlit as st\nst.write('hello')\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", str(script), "--server.port", str(port)],
        cwd=PROJECT_ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("STREAMLIT_")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = monotonic() + START_S
        while not is_healthy(port):
            assert process.poll() is None
            assert monotonic() < deadline
            sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait(30)


def is_healthy(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/_stcore/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def handshake(port, host, origin):
    """The status of a websocket handshake under that Host and Origin."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.putrequest("GET", "/_stcore/stream", skip_host=True)
        for name, value in {
            "Host": f"{host}:{port}",
            "Origin": f"http://{origin}:{port}",
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        }.items():
            connection.putheader(name, value)
        connection.endheaders()
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize("host", LOCAL)
def test_the_machine_itself_is_let_in(port, host):
    assert handshake(port, host, host) == 101


@pytest.mark.parametrize("host", ["evil.example", "x.streamlit.app", "localhost.evil.example", "10.0.0.1"])
def test_a_name_that_leads_here_by_dns_rebinding_is_refused(port, host):
    assert handshake(port, host, host) == 403


def test_another_site_is_refused_under_the_true_name(port):
    assert handshake(port, "127.0.0.1", "evil.example") == 403
