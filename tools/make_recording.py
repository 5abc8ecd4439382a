"""Make a recording on this machine: a chat, a small load test and a walk, as one small file.

    python tools/make_recording.py assets/recording/h200.json.xz --walk walk.json

Starts the lanes, asks the example prompts of all of them together, loads each lane briefly, and writes the
recording. The weights must be there (`lmdyno models demo`, and the demo's AWQ form for the lane awq). The
walk is one that `lmdyno walk --json` wrote, or its id; without `--walk` the recording has none.
"""

import argparse
import asyncio
import time
from contextlib import closing
from pathlib import Path

from core.bench.plan import BenchPlan, Load, Workload
from core.bench.run.job import conduct
from core.config import LaneRegistry, load_lanes
from core.domain.conversation import EXAMPLES, Sampling
from core.domain.runs import RunState
from core.domain.specs import LaneSpec
from core.domain.turns import ChatSettings, Mode, TurnRecord, new_id, plan_turn
from core.engines.manager import EngineManager
from core.meter.devices import SampledUsage
from core.meter.turns import run_and_keep
from core.replay.recording import collect, paths_of, write
from core.settings import load_settings
from core.telemetry.nvml import Nvml, describe_machine

FOLLOW_UP = "Name one more fact about it."
"""Asked after the first example, so that the recording holds a conversation with a history."""


def main() -> None:
    arguments = parse()
    settings = load_settings()
    began = time.monotonic()

    def tell(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)

    registry = load_lanes(settings, gpu=bool(Nvml().devices()))
    lanes = chosen(registry, arguments.lane)
    with closing(EngineManager(settings, lanes, gpu=Nvml())) as manager:
        for lane in lanes:
            manager.ensure(lane.name)
        for lane in lanes:
            manager.wait_until_healthy(lane.name, lane.settings.start_timeout_s)
            tell(f"{lane.name} is ready")
        turns = asyncio.run(chat(settings, lanes, arguments.tokens, tell))
        plan = BenchPlan(
            lanes=lanes,
            workload=Workload(prompt_tokens=64, output_tokens=arguments.bench_tokens),
            load=Load(concurrencies=tuple(arguments.concurrency)),
            seconds=arguments.seconds,
            warmup=1,
            title="A short load test",
        )
        seen: set[str] = set()

        def report(stage: str, _share: float | None = None) -> None:
            what = stage.partition(":")[0]
            if what not in seen:
                tell(what)
            seen.add(what)

        run = conduct(settings, plan, report)
        if run.state is not RunState.DONE:
            raise SystemExit(f"The load test ended with state {run.state}.")
    recording = collect(
        settings, [*(turn.id for turn in turns), run.id], walk=arguments.walk, title=arguments.title
    )
    size_bytes = write(recording, arguments.file, paths=paths_of(settings))
    tell(f"{arguments.file}: {size_bytes / 1000:.0f} kB, {len(recording.turns)} turns")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--lane", action="append", help="default: all local lanes for text")
    parser.add_argument("--walk", help="a walk's id, or the file of `lmdyno walk --json`")
    parser.add_argument("--title", default="Demo model on one machine")
    parser.add_argument("--tokens", type=int, default=128, help="the longest answer of the chat")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--seconds", type=float, default=2.0, help="per lane and concurrency")
    parser.add_argument("--bench-tokens", type=int, default=32)
    return parser.parse_args()


def chosen(registry: LaneRegistry, names: list[str] | None) -> tuple[LaneSpec, ...]:
    if names:
        return tuple(registry.lane(name) for name in names)
    known = ("hf", "turbomind", "awq", "hf-q4")
    return tuple(lane for lane in registry.lanes if lane.name in known)


async def chat(settings, lanes, max_tokens, tell) -> list[TurnRecord]:  # noqa: ANN001
    """Each example in a conversation of its own, the first one with a follow-up."""
    machine, turns = describe_machine(), []
    usage = SampledUsage(settings)
    usage.start()
    try:
        for number, prompt in enumerate(EXAMPLES.values()):
            conversation: list[TurnRecord] = []
            conversation_id = new_id()
            for question in (prompt, FOLLOW_UP) if number == 0 else (prompt,):
                settled = ChatSettings(
                    lanes=lanes, mode=Mode.TOGETHER, sampling=Sampling(temperature=0.0, max_tokens=max_tokens)
                )
                plan = plan_turn(question, settled, conversation_id=conversation_id, turns=conversation)
                records = await run_and_keep(settings, plan, usage=usage)
                failed = [record for record in records if record.error]
                if failed:
                    raise SystemExit(
                        f"{failed[0].lane.name}: {failed[0].error.message} {failed[0].error.hint}"
                    )
                conversation.append(TurnRecord.of(plan, records, machine))
                speeds = ", ".join(
                    f"{record.lane.name} {record.decode_tok_per_s:.0f} tok/s"
                    for record in records
                    if record.decode_tok_per_s
                )
                tell(f"{question[:40]}: {speeds}")
            turns += conversation
    finally:
        usage.close()
    return turns


if __name__ == "__main__":
    main()
