"""A failed request to a local engine is explained by what the engine wrote to its log meanwhile."""

import asyncio
import json
from dataclasses import replace

import pytest

from core.chat_api.answer import Answer
from core.chat_api.client import Timeouts, open_session
from core.domain.conversation import Message, Role, Sampling
from core.domain.specs import Dialect, Endpoint
from core.engines.log import requests
from core.engines.log.file import read_since
from core.engines.log.requests import send_explained
from core.errors import EngineCrashed, EngineError, EngineOutOfMemory

OUT_OF_MEMORY = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n"
MISALIGNED = "[TM][FATAL] core/check.cc(20): CUDA error: misaligned address\n"


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
