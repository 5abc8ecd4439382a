"""What a pass says of GPUs: those of the lanes that it measures, over all of a lane's GPUs."""

import asyncio
import socket
from itertools import count

import pytest

from core.bench.run import recording
from core.bench.run.recording import PassTelemetry, QueueCounter, QueueReader, read_counter, rise, rises
from core.chat_api.client import open_session
from core.domain.runs import EngineQueue
from core.domain.specs import Dialect, Endpoint, EngineKind
from core.domain.turns import utc_now
from core.engines.registry import EngineEntry, EngineState, Registry
from core.telemetry.processes import this_process
from core.telemetry.samples import GpuReading, ProcessMemory
from tests.timed_http import Step, Stream, Whole
from tests.unit.engines.engine_stand_ins import lane_in, settings_in

GIB = 2**30
ME = this_process()
JOULES_A_READING = (100.0, 10.0)
"""What each GPU's counter grows by from one reading to the next."""


class TwoGpus:
    """Sensors of two GPUs; this process holds 3 GiB on the first and 4 GiB on the second."""

    def __init__(self):
        self._readings = 0

    def readings(self):
        self._readings += 1
        return tuple(
            GpuReading(
                index=index,
                name="GPU",
                board=index,
                used_bytes=10 * GIB,
                energy_j=self._readings * joules,
                processes=(ProcessMemory(pid=ME.pid, used_bytes=(3 + index) * GIB),),
            )
            for index, joules in enumerate(JOULES_A_READING)
        )

    def problem(self):
        return None


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Telemetry of three lanes: one on each GPU, and one over both."""
    monkeypatch.setattr(recording, "Nvml", TwoGpus)
    home = settings_in(tmp_path)
    with Registry(home).changing() as engines:
        for name, gpus in (("first", (0,)), ("second", (1,)), ("both", (0, 1))):
            engines[name] = EngineEntry(
                lane=lane_in(tmp_path, name, EngineKind.TURBOMIND),
                state=EngineState.HEALTHY,
                since=utc_now(),
                owner=ME,
                worker=ME,
                process=ME,
                gpus=gpus,
                log_file="log",
            )
    return PassTelemetry(home, ["first", "second", "both"])


def use_of(passes, lanes):
    async def measure():
        await passes.mark()
        start_ns = passes._sampler.samples()[-1].at_ns
        await passes.mark()
        end_ns = passes._sampler.samples()[-1].at_ns
        return await passes.use(lanes, start_ns, end_ns)

    return asyncio.run(measure())


@pytest.mark.parametrize(
    ("lanes", "energy_j"),
    [
        (["first"], {0: 100.0}),
        (["second"], {1: 10.0}),
        (["both"], {0: 100.0, 1: 10.0}),
        (["first", "second"], {0: 100.0, 1: 10.0}),
    ],
)
def test_a_pass_has_the_energy_of_the_gpus_of_its_own_lanes(started, lanes, energy_j):
    gpus, _ = use_of(started, lanes)
    assert {gpu.index: gpu.energy_j for gpu in gpus} == energy_j


def test_an_engines_memory_is_added_up_over_its_gpus(started):
    _, engines = use_of(started, ["both"])
    assert {use.lane: use.peak_gpu_bytes for use in engines}["both"] == 7 * GIB


VLLM = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a b\\"c\\\\"} 3.0
# HELP vllm:request_queue_time_seconds Histogram of time spent in WAITING phase for request.
# TYPE vllm:request_queue_time_seconds histogram
vllm:request_queue_time_seconds_bucket{engine="0",le="0.3",model_name="a b\\"c\\\\"} 2.0
vllm:request_queue_time_seconds_bucket{engine="0",le="+Inf",model_name="a b\\"c\\\\"} 4.0
vllm:request_queue_time_seconds_count{engine="0",model_name="a b\\"c\\\\"} 4.0
vllm:request_queue_time_seconds_sum{engine="0",model_name="a b\\"c\\\\"} 1.5
vllm:request_queue_time_seconds_bucket{engine="1",le="+Inf",model_name="a b\\"c\\\\"} 1.0
vllm:request_queue_time_seconds_count{engine="1",model_name="a b\\"c\\\\"} 1.0
vllm:request_queue_time_seconds_sum{engine="1",model_name="a b\\"c\\\\"} 2e-05
"""
SGLANG = """\
# HELP sglang:queue_time_seconds Histogram of queueing time in seconds.
# TYPE sglang:queue_time_seconds histogram
sglang:queue_time_seconds_sum{engine_type="unified",model_name="m",tp_rank="0"} 0.75
sglang:queue_time_seconds_bucket{engine_type="unified",le="+Inf",model_name="m",tp_rank="0"} 3.0
sglang:queue_time_seconds_count{engine_type="unified",model_name="m",tp_rank="0"} 3.0
"""


def test_several_engines_of_one_server_are_added_up():
    assert read_counter(VLLM) == QueueCounter(total_s=pytest.approx(1.50002), requests=5)


def test_sglangs_name_is_another():
    assert read_counter(SGLANG) == QueueCounter(total_s=0.75, requests=3)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<!doctype html><title>Welcome</title>",
        '{"queue": 1}',
        VLLM.replace("vllm:request_queue_time", "vllm:e2e_request_latency"),
        VLLM[: VLLM.index("vllm:request_queue_time_seconds_sum")],
        VLLM[: VLLM.rindex("vllm:request_queue_time_seconds_sum")],
        VLLM[:-20],
        VLLM.replace("1.5\n", "NaN\n"),
    ],
)
def test_a_text_without_a_whole_counter_has_none(text):
    assert read_counter(text) is None


@pytest.mark.parametrize(
    "after", [QueueCounter(total_s=9.0, requests=2), QueueCounter(total_s=1.0, requests=9)]
)
def test_a_counter_that_went_backwards_tells_nothing(after):
    before = QueueCounter(total_s=5.0, requests=5)
    assert rise("a", before, after) is None
    assert rises({"a": before}, {"a": after}) == ()


def test_only_lanes_that_were_read_twice_have_a_rise():
    one, two = QueueCounter(total_s=1.0, requests=1), QueueCounter(total_s=2.5, requests=3)
    found = rises({"a": one, "gone": one}, {"a": two, "new": two})
    assert found == (EngineQueue(lane="a", total_s=1.5, requests=2),)


def streamed(steps, *, is_silent=False):
    def unheard(*_):
        pass

    return Stream(
        steps=steps, on_marked=unheard, on_ended=unheard, on_broken_off=unheard, is_silent=is_silent
    )


def dripping():
    """A line every tenth of a second, without end."""
    return streamed(Step(number / 10, b"a 1\n") for number in count())


def hanging():
    return streamed((), is_silent=True)


def read_twice(server, metrics, *, api_key=None):
    """Both readings of a run that asks a server twice, and how often the server was asked."""
    asked = []
    server.script.metrics = metrics and (lambda: asked.append(None) or metrics())
    endpoint = Endpoint(url=server.url, model="m", dialect=Dialect.GENERIC, api_key=api_key)

    async def read():
        async with open_session(reuse=True) as session:
            reader = QueueReader(session)
            return [await reader.read({"a": endpoint}) for _ in range(2)]

    return asyncio.run(read()), len(asked)


def test_a_server_that_counts_is_read_each_time(server):
    found, asked = read_twice(server, lambda: Whole(body=VLLM.encode()))
    assert [each["a"].requests for each in found] == [5, 5]
    assert asked == 2


@pytest.mark.parametrize(
    "metrics",
    [
        None,
        lambda: Whole(body=VLLM.encode(), status=500),
        lambda: Whole(body=b"\xff\xfe"),
        lambda: Whole(body=b"python_info 1\n"),
        dripping,
        hanging,
    ],
    ids=["404", "500", "not text", "other metrics", "dripping", "hanging"],
)
def test_a_server_that_shows_no_counter_is_asked_once(server, monkeypatch, metrics):
    monkeypatch.setattr(recording, "_TIMEOUT_S", 0.3)
    found, asked = read_twice(server, metrics)
    assert found == [{}, {}]
    assert asked == (metrics is not None)


@pytest.fixture
def unused_url():
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    return f"http://127.0.0.1:{port}/v1"


def test_a_server_that_is_gone_shows_no_counter(unused_url):
    endpoint = Endpoint(url=unused_url, model="m", dialect=Dialect.GENERIC)

    async def read():
        async with open_session() as session:
            return await QueueReader(session).read({"a": endpoint})

    assert asyncio.run(read()) == {}
