"""The unmeasured first request, against a real loopback server."""

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from PIL import Image

from core.domain.specs import Dialect, Endpoint
from core.engines.launch.table import LAUNCH_TABLE
from core.engines.startup import warm_up


@pytest.fixture
def server():
    """A server that keeps what it is sent and answers with `server.status`."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.server.seen.append((self.path, self.headers["Authorization"], body))
            self.send_response(self.server.status)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.seen, server.status = [], 200
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def endpoint(port, key=None):
    return Endpoint(url=f"http://127.0.0.1:{port}/v1", model="m", dialect=Dialect.LMDEPLOY, api_key=key)


def test_one_short_request_with_the_engines_own_key(server):
    warm_up(endpoint(server.server_port, "k"), timeout_s=5)
    ((path, key, body),) = server.seen
    assert (path, key, body["model"]) == ("/v1/chat/completions", "Bearer k", "m")
    assert body["max_tokens"] <= 32
    assert "stream" not in body


def test_an_engine_for_images_is_shown_one(server):
    warm_up(endpoint(server.server_port), timeout_s=5, images=True)
    question, shown = (body["messages"][0]["content"] for _, _, body in server.seen)
    assert isinstance(question, str)
    part, text = shown
    assert text["type"] == "text"
    head, _, data = part["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        image.load()
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (56, 56))


def test_a_refusal_does_not_keep_the_engine_from_starting(server, caplog):
    server.status = 500
    warm_up(endpoint(server.server_port), timeout_s=5)
    assert "status=500" in caplog.text


def test_nobody_there_does_not_either(caplog):
    warm_up(endpoint(9), timeout_s=1)
    assert "did not answer its first request" in caplog.text


def test_every_engine_is_warmed_up_alike():
    assert all(row.warms_up for row in LAUNCH_TABLE.values())
