"""One side of `gpu_bench.py`'s comparison: sends a batch of prompts whenever it is told to, and times it.

    python benchmarks/gpu_sides.py lane|bare|pipeline JSON

Each is a process of its own, at whose other end is a `Side`. It prints "ready", then for each line on its
input one line of JSON with the output tokens of the batch and the seconds from the first request to the last
answer.

lane       LMDyno's load generator against the lane's engine
bare       the same requests by aiohttp, which reads the streams and looks at nothing but their last lines
pipeline   `lmdeploy.pipeline` with the lane's weights and settings, fed the batch as a list
"""

import asyncio
import gc
import itertools
import json
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

Batch = Callable[[], Awaitable[dict[str, Any]]]
_TAIL_BYTES = 4096
_COMPLETION_TOKENS = re.compile(rb'"completion_tokens":\s*(\d+)')


class Side:
    """The other end: starts one and gives it its orders."""

    def __init__(self, kind: str, order: dict[str, Any], work: Path) -> None:
        orders = work / f"side-{kind}.json"
        orders.write_text(json.dumps(order), "utf-8")
        self._log = work / f"side-{kind}.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "benchmarks/gpu_sides.py", kind, str(orders)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def wait_until_ready(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while self._line(deadline - time.monotonic()) != "ready":
            pass  # what its libraries print before

    def batch(self, timeout_s: float = 60.0) -> dict[str, Any]:
        assert self._process.stdin
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        deadline = time.monotonic() + timeout_s
        while not (line := self._line(deadline - time.monotonic())).startswith('{"tokens"'):
            pass
        return dict(json.loads(line))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            self._lines.put(line.strip())
        self._lines.put("")

    def _line(self, timeout_s: float) -> str:
        try:
            if line := self._lines.get(timeout=max(0.1, timeout_s)):
                return line
            why = "it ended"
        except queue.Empty:
            why = "it took too long"
        log = self._log.read_text("utf-8", "replace")[-2000:]
        raise RuntimeError(f"{self._log.stem}: {why}\n{log}")


async def answer_orders(batch: Batch) -> None:
    print("ready", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        gc.collect()
        gc.freeze()
        print(json.dumps(await batch()), flush=True)


async def lane_side(order: dict[str, Any]) -> None:
    from core.bench.results.definitions import DEFINITIONS, Tool, system_tok_per_s
    from core.bench.results.points import Part
    from core.bench.run.load import Extent, LaneLoad, PassLoad, Sending
    from core.bench.workload import ListedPrompts
    from core.chat_api.client import open_session
    from core.domain.conversation import messages_for
    from core.domain.runs import BenchPass, BenchRequest, LoadLevel
    from core.domain.turns import utc_now

    lane, endpoint, sampling = _lane(order)
    prompts = ListedPrompts([messages_for(prompt) for prompt in order["prompts"]], "the batch")
    numbers, passes = itertools.count(), itertools.count()

    async with open_session(reuse=True) as session:

        async def batch() -> dict[str, Any]:
            found: list[BenchRequest] = []
            load = PassLoad(
                next(passes),
                [LaneLoad(name=lane.name, endpoint=endpoint, prompts=prompts, next_prompt=0)],
                Extent(requests=len(order["prompts"])),
                Sending(session=session, sampling=sampling, on_request=found.append, numbers=numbers),
            )
            await load.run_closed(order["concurrency"])
            level = LoadLevel(concurrency=order["concurrency"])
            each = BenchPass(
                number=0,
                repeat=0,
                lanes=(lane.name,),
                level=level,
                started_at=utc_now(),
                start_ns=load.start_ns,
                end_ns=load.end_ns,
            )
            part = Part(each, tuple(found))
            speed = system_tok_per_s(DEFINITIONS[Tool.LMDYNO], part.timings, part.window_s, None)
            tokens = sum(timing.output_tokens or 0 for timing in part.timings)
            failed = sum(request.failed for request in found)
            return {"tokens": tokens, "seconds": part.window_s, "failed": failed, "tok_per_s": speed}

        await answer_orders(batch)


async def bare_side(order: dict[str, Any]) -> None:
    import aiohttp

    from core.chat_api.client import encoded
    from core.domain.conversation import messages_for

    _, endpoint, sampling = _lane(order)
    url = f"{endpoint.url}/chat/completions"
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {endpoint.api_key}"}
    bodies = [encoded(endpoint, messages_for(prompt), sampling) for prompt in order["prompts"]]

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def stream(waiting: Iterator[bytes], counts: list[int]) -> None:
            for body in waiting:
                async with session.post(url, data=body, headers=headers) as response:
                    tail = b""
                    async for received in response.content.iter_any():
                        tail = (tail + received)[-_TAIL_BYTES:]
                    counts.append(int(_COMPLETION_TOKENS.findall(tail)[-1]))

        async def batch() -> dict[str, Any]:
            waiting, counts = iter(bodies), list[int]()
            began = time.perf_counter()
            await asyncio.gather(*(stream(waiting, counts) for _ in range(order["concurrency"])))
            return _result(sum(counts), time.perf_counter() - began)

        await answer_orders(batch)


async def pipeline_side(order: dict[str, Any]) -> None:
    from lmdeploy import GenerationConfig, TurbomindEngineConfig, pipeline

    engine = TurbomindEngineConfig(
        dtype="float16",
        session_len=order["session_len"],
        max_batch_size=order["concurrency"],
        cache_max_entry_count=order["kv_ratio"],
    )
    tokens = order["output_tokens"]
    sampling = GenerationConfig(
        max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, ignore_eos=True
    )
    with pipeline(order["checkpoint"], backend_config=engine) as pipe:

        async def batch() -> dict[str, Any]:
            began = time.perf_counter()
            answers = pipe(order["prompts"], gen_config=sampling)
            return _result(sum(each.generate_token_len for each in answers), time.perf_counter() - began)

        await answer_orders(batch)


def _lane(order: dict[str, Any]) -> Any:
    """The lane, its endpoint as it runs now, and how it is asked."""
    from core.config import load_lanes
    from core.domain.conversation import Sampling
    from core.engines.resolve import find_endpoint
    from core.settings import load_settings

    settings = load_settings()
    lane = load_lanes(settings, gpu=True).lane(order["lane"])
    endpoint = find_endpoint(settings, lane)
    assert endpoint is not None, f"{lane.name} is still starting"
    return lane, endpoint, Sampling(max_tokens=order["output_tokens"], fixed_length=True)


def _result(tokens: int, seconds: float) -> dict[str, Any]:
    return {"tokens": tokens, "seconds": seconds, "failed": 0, "tok_per_s": tokens / seconds}


SIDES: dict[str, Callable[[dict[str, Any]], Awaitable[None]]] = {
    "lane": lane_side,
    "bare": bare_side,
    "pipeline": pipeline_side,
}

# LMDeploy may import this file again in a child of its own.
if __name__ == "__main__":
    asyncio.run(SIDES[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text("utf-8"))))
