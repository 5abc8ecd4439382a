"""Requests that an engine fails, and those that it still computes for after they were stopped."""

import asyncio
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from core.chat_api.answer import Answer
from core.chat_api.client import Timeouts, open_session
from core.chat_api.servers import ServerMetrics
from core.domain.conversation import Message, Role, Sampling
from core.domain.specs import Dialect, Endpoint
from core.domain.turns import utc_now
from core.engines import requests, status
from core.engines.registry import EngineEntry, EngineState, Registry
from core.engines.requests import StoppedRequests, Unfinished, send_explained
from core.engines.supervisor import read_since
from core.errors import EngineCrashed, EngineError, EngineOutOfMemory
from core.telemetry.processes import is_computing, this_process
from tests.unit.engines.engine_stand_ins import lane_in, settings_in

OUT_OF_MEMORY = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n"
MISALIGNED = "[TM][FATAL] core/check.cc(20): CUDA error: misaligned address\n"

REMOTE = Endpoint(url="http://gpu-host:23333/v1", model="m", dialect=Dialect.GENERIC)


@pytest.fixture(autouse=True)
def _quick_looks(monkeypatch):
    monkeypatch.setattr(requests, "_WRITTEN_WITHIN_S", 0.0)


@pytest.fixture
def ask(server, tmp_path):
    """Sends a request to an engine that plays the scenario and writes `said`; returns the error."""
    log = tmp_path / "engine.log"

    def send(said, *, before="INFO: started\n", log_file=log, **scenario):
        log.write_text(before)
        endpoint = Endpoint(
            url=server.url, model=json.dumps({"chunks": 3, **scenario}), dialect=Dialect.GENERIC, device="cpu"
        )
        endpoint = replace(endpoint, log_file=str(log_file) if log_file else None)

        async def run():
            async with open_session() as session:
                answer = Answer(endpoint.dialect, on_sent=lambda: log.open("a").write(said))
                messages = (Message(Role.USER, "Go."),)
                await send_explained(session, endpoint, messages, Sampling(), answer, Timeouts())

        with pytest.raises(EngineError) as caught:
            asyncio.run(run())
        return caught.value

    return send


@pytest.mark.parametrize(
    ("said", "kind", "code"),
    [
        (OUT_OF_MEMORY, EngineOutOfMemory, "gpu-out-of-memory"),
        (MISALIGNED, EngineCrashed, "cuda-error"),
        ("numpy.MemoryError\nMemoryError: Unable to allocate\n", EngineOutOfMemory, "host-out-of-memory"),
        (
            "ValueError: Cannot use chat template functions because tokenizer.chat_template is not set and\n",
            EngineError,
            "chat-template",
        ),
        ("jinja2.exceptions.TemplateError: System role not supported\n", EngineError, "chat-template"),
    ],
)
def test_an_answer_that_says_nothing_is_explained_by_the_log(ask, said, kind, code):
    error = ask(said, status=500, error="Internal Server Error")
    assert (type(error), error.code) == (kind, code)
    assert error.hint


def test_a_stream_that_breaks_off_is_explained_by_the_log(ask):
    assert ask(MISALIGNED, cut_after=1).message == "The engine failed with a CUDA error: misaligned address"


def test_what_was_written_before_the_request_explains_nothing(ask):
    error = ask("INFO: fine\n", before=OUT_OF_MEMORY, status=500, error="Internal Server Error")
    assert error.code == "endpoint-refused"


def test_an_answer_that_names_its_reason_stays(ask):
    error = ask(OUT_OF_MEMORY, status=404, error="The model `x` does not exist")
    assert error.code == "model-not-found"


def test_a_server_without_a_log_is_taken_by_its_word(ask):
    assert ask(OUT_OF_MEMORY, log_file=None, status=500, error="oops").code == "endpoint-refused"


def test_a_log_that_was_shortened_is_read_from_its_beginning(tmp_path):
    log = tmp_path / "engine.log"
    log.write_text(MISALIGNED)
    assert read_since(log, 10_000) == MISALIGNED
    assert read_since(log, log.stat().st_size) == ""
    assert read_since(tmp_path / "none.log", 0) == ""


@pytest.fixture
def load(monkeypatch):
    """What the server says of its load; None says nothing."""
    said = {"load": None}
    monkeypatch.setattr(requests, "server_metrics", lambda *_args, **_more: said["load"])
    return said


@pytest.fixture
def home(tmp_path):
    return settings_in(tmp_path)


def engine(home, name="hf", *, port=1, device="cpu"):
    """A registered engine; this process stands in for its own."""
    process = this_process()
    endpoint = Endpoint(
        url=f"http://127.0.0.1:{port}/v1", model="m", dialect=Dialect.TRANSFORMERS, device=device
    )
    entry = EngineEntry(
        lane=lane_in(home.home, name),
        state=EngineState.HEALTHY,
        since=utc_now(),
        owner=process,
        worker=process,
        process=process,
        port=port,
        endpoint=endpoint,
        log_file=str(home.home / "hf.log"),
    )
    with Registry(home).changing() as engines:
        engines[name] = entry
    return entry


def load_of(running, waiting=0):
    return ServerMetrics(kv_used_ratio=None, running=running, waiting=waiting)


def test_without_a_stopped_request_nothing_is_looked_at(home, load):
    looked = []
    stopped = StoppedRequests(home, computes=looked.append)
    entry = engine(home)
    assert stopped.before(entry.endpoint) == stopped.before(REMOTE) == Unfinished()
    assert looked == []


def test_an_engine_that_computes_on_is_waited_for_until_it_is_idle(home, load):
    busy = [True]
    stopped = StoppedRequests(home, computes=lambda _pid: busy[0])
    entry = engine(home)
    stopped.note(entry.endpoint)
    assert stopped.before(entry.endpoint) == Unfinished(lanes=("hf",))
    assert stopped.since_s(entry.endpoint.url) is not None
    busy[0] = False
    assert not stopped.before(entry.endpoint).must_wait
    assert stopped.since_s(entry.endpoint.url) is None


def test_every_process_of_a_home_sees_the_note(home, load):
    entry = engine(home)
    StoppedRequests(home).note(entry.endpoint)
    assert StoppedRequests(home, computes=lambda _pid: True).is_finishing(entry)


def test_the_engines_own_counters_come_before_its_cpu_time(home, load):
    stopped = StoppedRequests(home, computes=lambda _pid: True)
    entry = engine(home)
    stopped.note(entry.endpoint)
    load["load"] = load_of(1)
    assert stopped.is_finishing(entry)
    load["load"] = load_of(0, waiting=1)
    assert stopped.is_finishing(entry)
    load["load"] = load_of(0)
    assert not stopped.is_finishing(entry)


def test_a_busy_gpu_counts_where_the_cpu_rests(home, load):
    class Gpus:
        used = 0.4

        def readings(self):
            return (SimpleNamespace(index=3, utilisation_ratio=self.used),)

    gpus = Gpus()
    stopped = StoppedRequests(home, computes=lambda _pid: False, gpus=gpus)
    entry = replace(engine(home), gpus=(3,))
    stopped.note(entry.endpoint)
    assert stopped.is_finishing(entry)
    gpus.used = None
    assert not stopped.is_finishing(entry)


def test_other_engines_on_the_same_device_are_waited_for_too(home, load):
    stopped = StoppedRequests(home, computes=lambda _pid: True)
    busy, other = engine(home, "hf", port=1, device="cuda:0,1"), engine(home, "awq", port=2, device="cuda:1")
    elsewhere = engine(home, "far", port=3, device="cuda:2")
    stopped.note(busy.endpoint)
    assert stopped.before(other.endpoint) == Unfinished(lanes=("hf",))
    assert stopped.before(elsewhere.endpoint) == Unfinished()


def test_a_restarted_engine_has_nothing_to_finish(home, load):
    stopped = StoppedRequests(home, computes=lambda _pid: True)
    entry = engine(home)
    stopped.note(entry.endpoint)
    fresh = replace(entry, process=replace(entry.process, created_s=time.time() + 10))
    assert not stopped.is_finishing(fresh)
    stopped.note(entry.endpoint)
    assert not stopped.is_finishing(entry.to(EngineState.STOPPED))


def test_a_note_that_comes_while_it_is_looked_at_stays(home, load):
    entry = engine(home)

    def computes(_pid):
        os.utime(next((home.home / "unfinished").iterdir()), (time.time() + 5,) * 2)
        return False

    stopped = StoppedRequests(home, computes=computes)
    stopped.note(entry.endpoint)
    stopped.is_finishing(entry)
    assert stopped.since_s(entry.endpoint.url) is not None


def test_a_remote_server_that_counts_is_waited_for(home, load):
    stopped = StoppedRequests(home)
    stopped.note(REMOTE)
    load["load"] = load_of(2)
    assert stopped.before(REMOTE) == Unfinished(server_is_busy=True)
    load["load"] = load_of(0)
    assert stopped.before(REMOTE) == Unfinished()
    assert stopped.since_s(REMOTE.url) is None


def test_a_remote_server_that_says_nothing_is_flagged_for_a_while(home, load, monkeypatch):
    stopped = StoppedRequests(home)
    stopped.note(REMOTE)
    found = stopped.before(REMOTE)
    assert found.server_is_silent
    assert not found.must_wait
    monkeypatch.setattr(requests, "_SILENT_SERVER_S", 0.0)
    assert stopped.before(REMOTE) == Unfinished()


def test_a_status_tells_what_takes_long_and_not_while_others_are_answered(home):
    entry = engine(home)
    shown = {"silent_s": 0.0, "owned": True}

    def told(stopped_s, *, in_use=False):
        return status.of_engine(entry, entry.lane, in_use=in_use, stopped_s=stopped_s, **shown)

    assert told(30.0).finishing_s == 30.0
    assert "Finishing a stopped request" in told(30.0).stage
    for now in (told(None), told(0.2), told(30.0, in_use=True)):
        assert now.finishing_s is None


@pytest.mark.parametrize(
    ("program", "works"), [("while True: pass", True), ("import time; time.sleep(60)", False)]
)
def test_work_is_told_from_waiting(program, works):
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        try:
            deadline = time.monotonic() + 20
            while is_computing(process.pid) is not works and time.monotonic() < deadline:
                pass  # an interpreter works while it starts
            assert is_computing(process.pid) is works
        finally:
            process.kill()


def test_a_process_that_is_gone_computes_nothing():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert not is_computing(process.pid, look_s=0.01)
