"""What ends a request to an engine on a node, and which reason is told."""

import asyncio

import pytest

from core.errors import EngineCrashed, EngineError
from core.meter import request as meter_request
from core.meter.request import send_to_node

SILENT = EngineCrashed("Node beta stopped answering.", code="node-silent")
OUT_OF_MEMORY = EngineError("Node beta: out of memory.", code="gpu-full")
LOST = EngineCrashed("The cluster's process ended.", code="cluster-process-died")
BROKEN = EngineCrashed("The connection broke.", code="engine-crashed")
REFUSED = EngineError("The prompt is too long.", code="prompt-too-long")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(meter_request, "_LOOK_S", 0.02)
    monkeypatch.setattr(meter_request, "_TOLD_WITHIN_S", 0.2)


class Lane:
    """Resolves as scripted: each look takes the next problem, and the last one for good."""

    def __init__(self, *problems):
        self.problems = list(problems)

    def __call__(self):
        problem = self.problems.pop(0) if len(self.problems) > 1 else self.problems[0]
        if problem is not None:
            raise problem


def send(request, lane, text_chars=lambda: 0):
    asyncio.run(send_to_node(request(), lane, text_chars))


async def hanging():
    await asyncio.Event().wait()


async def ending():
    await asyncio.sleep(0.1)


def failing(error):
    async def fail():
        raise error

    return fail


def test_an_answer_that_comes_is_left_alone():
    send(ending, Lane(None))


def test_a_request_to_a_dead_node_ends_with_the_nodes_reason():
    with pytest.raises(EngineCrashed) as caught:
        send(hanging, Lane(None, None, SILENT))
    assert caught.value is SILENT


def test_an_engine_that_answers_outlives_its_silent_agent():
    chars = iter(range(1000))
    send(ending, Lane(SILENT), lambda: next(chars))


def test_a_lost_cluster_process_ends_no_request():
    send(ending, Lane(LOST))


def test_a_broken_connection_waits_for_the_agents_reason():
    with pytest.raises(EngineError) as caught:
        send(failing(BROKEN), Lane(None, LOST, OUT_OF_MEMORY))
    assert caught.value is OUT_OF_MEMORY


def test_without_a_reason_the_requests_own_error_stays():
    with pytest.raises(EngineError) as caught:
        send(failing(BROKEN), Lane(None))
    assert caught.value is BROKEN


def test_an_error_that_says_enough_is_told_at_once():
    with pytest.raises(EngineError) as caught:
        send(failing(REFUSED), Lane(OUT_OF_MEMORY))
    assert caught.value is REFUSED


def test_a_request_that_is_cancelled_takes_its_connection_along():
    ended = []

    async def request():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def cancel():
        task = asyncio.create_task(send_to_node(request(), Lane(None), lambda: 0))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert ended == [True]
