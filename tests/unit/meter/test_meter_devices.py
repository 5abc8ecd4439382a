import asyncio
import subprocess
import sys
from pathlib import Path

from core.meter.devices import DeviceQueue
from tests.unit.meter.meter_samples import endpoint

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
