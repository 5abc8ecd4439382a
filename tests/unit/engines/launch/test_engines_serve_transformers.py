import asyncio
import sys
import threading
from types import ModuleType, SimpleNamespace

import pytest

from core.engines.launch import serve_transformers


@pytest.fixture
def libraries(monkeypatch) -> SimpleNamespace:
    """Stand-ins for gguf and transformers that count what is read; they too look names up late."""
    seen = SimpleNamespace(opened=[], maps=[])
    gguf, reading, transformers = (
        ModuleType(name) for name in ("gguf", "modeling_gguf_pytorch_utils", "transformers")
    )

    def open_file(path):
        seen.opened.append(path)
        return {"path": path}

    def load_gguf_checkpoint(path, return_tensors=False, model_to_load=None):
        header = gguf.GGUFReader(path)
        gguf.get_tensor_name_map("llama", 30)
        return {"config": dict(header), "tensors": model_to_load if return_tensors else None}

    gguf.GGUFReader = open_file
    gguf.get_tensor_name_map = lambda *key: seen.maps.append(key)
    reading.load_gguf_checkpoint = load_gguf_checkpoint
    transformers.modeling_gguf_pytorch_utils = reading
    for module in (gguf, transformers):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    serve_transformers.read_gguf_files_once()
    return SimpleNamespace(seen=seen, reading=reading)


def test_one_start_parses_a_file_once(libraries):
    load = libraries.reading.load_gguf_checkpoint
    assert load("a.gguf")["config"] == load("a.gguf", return_tensors=False)["config"] == {"path": "a.gguf"}
    assert load("a.gguf", return_tensors=True, model_to_load="model")["tensors"] == "model"
    assert libraries.seen.opened == ["a.gguf"]
    assert libraries.seen.maps == [("llama", 30)]


def test_header_of_one_file_is_not_anothers(libraries):
    load = libraries.reading.load_gguf_checkpoint
    assert load("a.gguf")["config"] != load("b.gguf")["config"]


def test_what_a_caller_changes_stays_its_own(libraries):
    load = libraries.reading.load_gguf_checkpoint
    load("a.gguf")["config"].clear()
    assert load("a.gguf")["config"] == {"path": "a.gguf"}


def test_parsed_header_is_let_go_with_the_weights(libraries):
    load = libraries.reading.load_gguf_checkpoint
    load("a.gguf", return_tensors=True)
    load("a.gguf", return_tensors=True)
    assert libraries.seen.opened == ["a.gguf", "a.gguf"]


class Stopped(Exception):
    """What the engine's generation is ended with."""


def test_a_stopped_generation_ends_within_the_operation_that_runs():
    interruption = serve_transformers.Interruption(Stopped)
    streamer, begun, ended = object(), threading.Event(), []

    def generate():
        interruption.begins(streamer)
        begun.set()
        try:
            while True:
                sum(range(1000))
        except Stopped:
            ended.append("stopped")
        finally:
            interruption.ends()

    thread = threading.Thread(target=generate)
    thread.start()
    begun.wait(10)
    interruption.interrupt(object())  # another one's, which has ended or not begun
    interruption.interrupt(streamer)
    thread.join(10)
    assert ended == ["stopped"]


def test_what_comes_too_late_hits_nobody():
    interruption = serve_transformers.Interruption(Stopped)
    streamer = object()
    interruption.begins(streamer)
    interruption.ends()
    interruption.interrupt(streamer)
    assert [sum(range(1000)) for _ in range(1000)]


def test_an_exception_on_its_way_is_taken_back_at_the_end():
    interruption = serve_transformers.Interruption(Stopped)
    streamer, at_end, goes_on = object(), threading.Event(), threading.Event()
    after = []

    def generate():
        interruption.begins(streamer)
        try:
            at_end.set()
            goes_on.wait(10)
        except Stopped:
            after.append("seen")
        interruption.ends()
        after.append(sum(range(100_000)))

    thread = threading.Thread(target=generate)
    thread.start()
    at_end.wait(10)
    interruption.interrupt(streamer)
    goes_on.set()
    thread.join(10)
    assert after[-1] == sum(range(100_000))


def test_transformers_serve_is_stopped_by_its_own_cancelling(monkeypatch):
    """The patched classes of its serving code, with a generation that never puts a token out."""

    class Streamer:
        def __init__(self):
            self._first = True
            self.cancelled = False

        def put(self, value):
            self._first = False

        def cancel(self):
            self.cancelled = True

    class Manager:
        def submit(self, work, *arguments, **options):
            return work(*arguments, **options)

    utils = ModuleType("utils")
    utils._GenerationCancelled, utils.DirectStreamer, utils.GenerateManager = Stopped, Streamer, Manager
    names = ("transformers", "transformers.cli", "transformers.cli.serving")
    for name in names:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["transformers.cli.serving"].utils = utils
    serve_transformers.stop_within_prefill()

    streamer, begun, ended = Streamer(), threading.Event(), []

    def generate():
        try:
            streamer.put("the prompt")
            begun.set()
            while True:
                sum(range(1000))
        except Stopped:
            ended.append("stopped")

    thread = threading.Thread(target=Manager().submit, args=(generate,))
    thread.start()
    begun.wait(10)
    streamer.cancel()
    thread.join(10)
    assert streamer.cancelled
    assert ended == ["stopped"]


@pytest.mark.parametrize(
    ("kind", "path", "headers", "status"),
    [
        ("http", "/v1/models", [(b"authorization", b"Bearer k")], 200),
        ("http", "/v1/models", [(b"authorization", b"Bearer other")], 401),
        ("http", "/v1/models", [], 401),
        ("websocket", "/v1/realtime", [], 401),
        ("http", "/health", [], 200),
        ("lifespan", None, [], 200),
    ],
)
def test_only_health_is_for_everybody(kind, path, headers, status):
    sent = []

    async def app(_scope, _receive, send):
        await send({"status": 200})

    async def send(message):
        sent.append(message)

    scope = {"type": kind, "headers": headers} | ({"path": path} if path else {})
    asyncio.run(serve_transformers.guarded(app, "k")(scope, None, send))
    assert sent[0]["status"] == status


def test_the_key_stands_before_whatever_uvicorn_serves(monkeypatch):
    uvicorn = ModuleType("uvicorn")

    class Config:
        def __init__(self, app, *, host):
            self.app, self.host = app, host

    uvicorn.Config = Config
    monkeypatch.setitem(sys.modules, "uvicorn", uvicorn)
    serve_transformers.require_key("k")
    config = uvicorn.Config("app", host="10.0.0.7")
    assert config.host == "10.0.0.7"
    assert config.app.__name__ == "guard"
