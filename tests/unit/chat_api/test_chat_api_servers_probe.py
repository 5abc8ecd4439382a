"""Connection tests against a real loopback server that answers as scripted."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event

import pytest

from core.chat_api.servers import GOOD_FOR_S, Reach, Reachability, probe, read_metrics, server_metrics
from core.domain.specs import Dialect, Endpoint
from core.errors import ConfigError, EngineError, EngineTimeout, InputError

METRICS = """# HELP lmdeploy:num_requests_running running
# TYPE lmdeploy:num_requests_running gauge
lmdeploy:num_requests_running{engine="0",model_name="a"} 2.0
lmdeploy:num_requests_running{engine="0",model_name="b"} 1.0
lmdeploy:num_requests_waiting{engine="0",model_name="a"} 0.0
lmdeploy:gpu_cache_usage_perc{engine="0",model_name="a"} 0.25
"""


@pytest.fixture
def serve():
    """serve({path: (status, body)}) → base URL; a body of None hangs until the test is over."""
    servers, release = [], threading.Event()

    def start(answers, key=None, seen=None):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                if seen is not None:
                    seen.append(self.path)
                status, body = answers.get(self.path, (404, "no"))
                if key and self.headers["Authorization"] != f"Bearer {key}":
                    status, body = 401, "no"
                if body is None:
                    release.wait(10)
                    return
                self.send_response(status)
                if 300 <= status < 400:
                    self.send_header("Location", body)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *args):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/v1"

    yield start
    release.set()
    for server in servers:
        server.shutdown()
        server.server_close()


def models(*ids, owner="lmdeploy"):
    return json.dumps({"object": "list", "data": [{"id": each, "owned_by": owner} for each in ids]})


def test_models_dialect_and_metrics_are_found(serve):
    url = serve({"/v1/models": (200, models("a", "b")), "/metrics": (200, METRICS)})
    report = probe(url)
    assert report.models == ("a", "b")
    assert report.dialect is Dialect.LMDEPLOY
    assert report.has_metrics
    assert report.round_trip_s > 0


def test_an_unknown_server_speaks_the_generic_dialect(serve):
    report = probe(serve({"/v1/models": (200, models("a", owner="somebody"))}) + "/")
    assert (report.dialect, report.has_metrics) == (Dialect.GENERIC, False)


def test_the_load_is_added_up_over_models(serve):
    load = server_metrics(serve({"/metrics": (200, METRICS)}))
    assert (load.kv_used_ratio, load.running, load.waiting) == (0.25, 3, 0)


@pytest.mark.parametrize(
    "text",
    [
        "vllm:num_requests_running 3\nvllm:num_requests_waiting 0\nvllm:kv_cache_usage_perc 0.25\n",
        "sglang:num_running_reqs 3\nsglang:num_queue_reqs 0\nsglang:token_usage 0.25\n",
        "llamacpp:requests_processing 3\nllamacpp:requests_deferred 0\nllamacpp:kv_cache_usage_ratio 0.25\n",
        METRICS
        + 'lmdeploy:gpu_cache_usage_perc{engine="1"} NaN\nlmdeploy:num_requests_running{engine="1"} NaN\n',
    ],
)
def test_each_servers_gauges_are_read_without_what_is_no_number(text):
    load = read_metrics(text)
    assert (load.kv_used_ratio, load.running, load.waiting) == (0.25, 3, 0)


def test_gauges_that_are_all_no_numbers_are_unknown():
    assert read_metrics("vllm:num_requests_running NaN\n") is None


def test_what_is_not_offered_is_unknown(serve):
    load = server_metrics(serve({"/metrics": (200, "vllm:num_requests_waiting 4\n")}))
    assert (load.kv_used_ratio, load.running, load.waiting) == (None, None, 4)
    assert server_metrics(serve({"/metrics": (200, "python_info 1\n")})) is None


def test_the_key_is_sent_and_a_wrong_one_is_named(serve):
    url = serve({"/v1/models": (200, models("a"))}, key="right")
    assert probe(url, "right").models == ("a",)
    with pytest.raises(EngineError, match="didn't accept the API key") as caught:
        probe(url, "wrong")
    assert caught.value.code == "endpoint-unauthorised"
    with pytest.raises(EngineError, match="without an API key"):
        probe(url)


@pytest.mark.parametrize("body", ["words", '{"data": [{}]}', '{"data": 3}', "{}", "7"])
def test_another_kind_of_server_is_told_apart(serve, body):
    with pytest.raises(EngineError) as caught:
        probe(serve({"/v1/models": (200, body)}))
    assert caught.value.code == "endpoint-not-openai"


@pytest.mark.parametrize("body", ['{"object": "list", "data": []}', "[]", '{"object": "list", "data": null}'])
def test_a_server_without_models_is_fine(serve, body):
    assert probe(serve({"/v1/models": (200, body)})).models == ()


@pytest.mark.parametrize(
    "body",
    ['[{"id": "a"}, {"id": "b"}]', '{"models": [{"name": "a"}, {"model": "b"}]}', '["a", "b"]',
     '{"data": [{"id": "a"}, {"id": "b"}, {"id": "a"}, {"id": null}, 7]}'],
)  # fmt: skip
def test_models_in_any_shape_of_list(serve, body):
    assert probe(serve({"/v1/models": (200, body)})).models == ("a", "b")


def test_a_sign_in_page_is_named(serve):
    with pytest.raises(EngineError) as caught:
        probe(serve({"/v1/models": (200, "<!doctype html><title>Sign in</title>")}))
    assert caught.value.code == "endpoint-web-page"


@pytest.mark.parametrize(
    ("owner", "dialect"),
    [
        ("vllm", Dialect.VLLM),
        ("sglang", Dialect.SGLANG),
        ("llamacpp", Dialect.LLAMACPP),
        ("me", Dialect.GENERIC),
    ],
)
def test_servers_are_recognised_by_the_owner_they_name(serve, owner, dialect):
    assert probe(serve({"/v1/models": (200, models("a", owner=owner))})).dialect is dialect


def test_transformers_serve_is_recognised_by_its_api(serve):
    paths = {"/v1/chat/completions": {}, "/load_model": {}, "/reset": {}, "/health": {}}
    answers = {
        "/v1/models": (200, models("a", owner="Qwen")),
        "/openapi.json": (200, json.dumps({"paths": paths})),
    }
    assert probe(serve(answers)).dialect is Dialect.TRANSFORMERS


def test_silence_is_a_time_out(serve):
    with pytest.raises(EngineTimeout) as caught:
        probe(serve({"/v1/models": (200, None)}), timeout_s=0.3)
    assert caught.value.code == "connect-timeout"


def test_nobody_there():
    with pytest.raises(EngineError) as caught:
        probe("http://127.0.0.1:9/v1")
    assert caught.value.code == "endpoint-unreachable"


def test_only_the_web_is_asked():
    with pytest.raises(InputError):
        probe("file:///etc")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_neither_key_nor_request_follows_a_redirect_to_another_host(serve, status):
    asked = []
    target = serve({"/v1/models": (200, models("a"))}, seen=asked)
    url = serve({"/v1/models": (status, f"{target}/models"), "/metrics": (status, f"{target}/models")})
    with pytest.raises(EngineError, match=r"points to another address: http://127\.0\.0\.1") as raised:
        probe(url, "sk-precious")
    assert raised.value.code == "endpoint-redirects"
    assert server_metrics(url, "sk-precious") is None
    assert asked == []


def test_a_redirect_on_the_same_host_is_followed(serve):
    answers = {"/v1/models": (307, "/v1/models/"), "/v1/models/": (200, models("a"))}
    assert probe(serve(answers, key="sk"), "sk").models == ("a",)


def test_endless_redirects_end(serve):
    with pytest.raises(EngineError) as caught:
        probe(serve({"/v1/models": (302, "/v1/models")}))
    assert caught.value.code == "endpoint-redirects"


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
