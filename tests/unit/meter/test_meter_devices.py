import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from core.chat_api.client import open_session
from core.domain.turns import FinishReason, Phase, UsageWindow
from core.meter.devices import DeviceQueue, SampledUsage
from core.meter.turns import Surroundings, Turn
from core.settings import Settings
from tests.unit.meter.meter_samples import endpoint, model, no_lease, remote_lane, resolve_remote, turn_plan

ROOT = Path(__file__).resolve().parents[3]
CPU = frozenset({"cpu"})


def on(device):
    return (
        endpoint("http://host/v1", "m", device=device) if device else endpoint("http://h/v1", "m")
    ).devices


def test_devices_of_an_endpoint():
    assert on("cpu") == {"cpu"}
    assert on("cuda:0,1") == {"cuda:0", "cuda:1"}
    assert on(None) == frozenset()


async def admitted(queue, devices, places):
    ticket = queue.join(devices, places.append)
    await queue.admission(ticket)
    return ticket


def test_first_come_first_served_with_places(tmp_path):
    async def main():
        queue = DeviceQueue(tmp_path)
        first = await admitted(queue, CPU, [])
        order, places = [], {"b": [], "c": []}

        async def later(name):
            ticket = await admitted(queue, CPU, places[name])
            order.append(name)
            queue.release(ticket)

        tasks = [asyncio.create_task(later(name)) for name in "bc"]
        await asyncio.sleep(0.05)
        assert order == []
        queue.release(first)
        await asyncio.gather(*tasks)
        return order, places

    assert asyncio.run(main()) == (["b", "c"], {"b": [1], "c": [2, 1]})


def test_other_devices_do_not_wait_but_shared_ones_do(tmp_path):
    async def main():
        queue = DeviceQueue(tmp_path)
        await admitted(queue, CPU, [])
        await asyncio.wait_for(admitted(queue, frozenset({"cuda:0"}), []), 1)
        both = asyncio.create_task(admitted(queue, frozenset({"cuda:0", "cuda:1"}), []))
        await asyncio.sleep(0.05)
        return both.done()

    assert asyncio.run(main()) is False


def test_who_gives_up_waiting_makes_room(tmp_path):
    async def main():
        queue = DeviceQueue(tmp_path)
        first = await admitted(queue, CPU, [])
        given_up = queue.join(CPU, lambda place: None)
        places = []
        third = asyncio.create_task(admitted(queue, CPU, places))
        await asyncio.sleep(0.02)
        queue.release(given_up)
        queue.release(first)
        await asyncio.wait_for(third, 1)
        return places

    assert asyncio.run(main()) == [2, 1]


def test_another_process_is_waited_for(tmp_path):
    program = (
        "import sys\nfrom pathlib import Path\nfrom core.files import lock_path, try_lock\n"
        "try_lock(lock_path(Path(sys.argv[1]), 'device-cpu.measure'))\nprint('held', flush=True)\ninput()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert other.stdout.readline() == "held\n"

        async def main():
            places = []
            waiting = asyncio.create_task(admitted(DeviceQueue(tmp_path), CPU, places))
            await asyncio.sleep(0.2)
            assert not waiting.done()
            other.kill()
            await asyncio.wait_for(waiting, 5)
            return places

        assert asyncio.run(main()) == [1]
    finally:
        other.kill()
        other.communicate()


WINDOW = UsageWindow(duration_s=2.0, energy_j=600.0, idle_power_w=100.0)


class FakeUsage:
    """Keeps what it was asked."""

    def __init__(self):
        self.begun = []
        self.ended = []

    async def begin(self, endpoint):
        self.begun.append(endpoint.model)

    async def end(self, lane, endpoint, start_ns, end_ns):
        self.ended.append((lane, start_ns, end_ns))
        return WINDOW


def run(plan, usage, *, device="cpu", cancel_after_s=None):
    updates = []

    async def main():
        async with open_session() as session:
            around = Surroundings(
                session=session,
                resolve=lambda lane: replace(resolve_remote(lane), device=device),
                lease=no_lease,
                usage=usage,
            )
            turn = Turn(plan, around, updates.append)
            if cancel_after_s is not None:
                asyncio.get_running_loop().call_later(cancel_after_s, turn.cancel)
            await turn.run()
            return turn.records()

    return asyncio.run(main()), updates


def lane(server, **scenario):
    return remote_lane("a", server.url, model(**scenario))


def test_each_record_keeps_the_window_from_sending_to_the_stream_s_end(server):
    usage = FakeUsage()
    (record,), updates = run(turn_plan(lane(server, chunks=3)), usage)
    assert record.window == WINDOW
    assert usage.ended == [("a", record.timing.sent_ns, record.timing.ended_ns)]
    assert len(usage.begun) == 1
    done = [update.record for update in updates if update.phase is Phase.DONE]
    assert [each.window for each in done] == [WINDOW]


def test_energy_by_token_with_and_without_what_idling_costs(server):
    (record,), _ = run(turn_plan(lane(server, chunks=3)), FakeUsage())
    assert record.output_tokens
    assert record.energy_j_per_token == pytest.approx(600 / record.output_tokens)
    assert record.energy_above_idle_j_per_token == pytest.approx(400 / record.output_tokens)


def test_a_stopped_or_failed_request_has_no_window(server):
    (record,), _ = run(turn_plan(lane(server, hang=True)), FakeUsage(), cancel_after_s=0.2)
    assert (record.finish_reason, record.window) == (FinishReason.CANCELLED, None)
    assert record.energy_j_per_token is None


@pytest.fixture
def sampled(tmp_path):
    usage = SampledUsage(
        Settings(home=tmp_path, lanes_file=tmp_path / "lanes.toml", database_url="sqlite://")
    )
    usage.start()
    yield usage
    usage.close()


def test_a_server_somewhere_else_is_not_measured(server, sampled):
    (record,), _ = run(turn_plan(lane(server, chunks=3)), sampled, device=None)
    assert record.window is None


def test_on_this_machine_the_window_lasts_as_long_as_the_answer(server, sampled):
    (record,), _ = run(turn_plan(lane(server, chunks=3, interval_s=0.1)), sampled)
    timing = record.timing
    assert record.window.duration_s == pytest.approx((timing.ended_ns - timing.sent_ns) * 1e-9)
    assert record.window.energy_j is None
    assert not record.window.shared
