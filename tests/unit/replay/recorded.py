"""Turns, runs and walks with timestamps that are easy to reckon with."""

from datetime import UTC, datetime

from core.domain.conversation import Sampling, messages_for
from core.domain.runs import BenchPass, BenchRecord, BenchRequest, BenchRun, LaneFacts, LoadLevel, RunState
from core.domain.specs import EngineKind, LaneSpec, ModelSpec
from core.domain.timing import Timing
from core.domain.turns import FinishReason, Machine, Mode, Phase, RequestRecord, TurnRecord
from core.domain.walk import Figure, StepKind, StepResult, StepState, Unit, WalkRun

S = 1_000_000_000
"""Nanoseconds in a second."""
AT = datetime(2026, 11, 29, 16, 30, tzinfo=UTC)
H200 = Machine(
    host="gpu-host", platform="Linux", python="3.12", cpu="Xeon", gpus=("NVIDIA H200, 140.40 GiB",)
)


def lane(name):
    model = ModelSpec(name="tiny", checkpoint="/home/ada/.lmdyno/models/tiny")
    return LaneSpec(name=name, kind=EngineKind.TRANSFORMERS, model=model)


def timing(*, sent_s, chunks_s, content, reasoning=(), ended_s=None, tokens=None, chunk_tokens=None):
    """Times in whole or half seconds on the clock of the turn's process."""
    return Timing(
        sent_ns=int(sent_s * S),
        chunk_ns=tuple(int(at * S) for at in chunks_s),
        content_chars=content,
        reasoning_chars=reasoning,
        chunk_tokens=chunk_tokens,
        output_tokens=tokens,
        ended_ns=None if ended_s is None else int(ended_s * S),
    )


def request(name, text, when, *, reasoning="", turn_id="turn0001", **more):
    return RequestRecord(
        id=f"{turn_id}-{name}",
        turn_id=turn_id,
        lane=lane(name),
        messages=messages_for("Hi"),
        phase=more.pop("phase", Phase.DONE),
        timing=when,
        text=text,
        reasoning=reasoning,
        finish_reason=more.pop("finish_reason", FinishReason.STOP),
        device=more.pop("device", "cuda:0"),
        **more,
    )


def turn(*requests, turn_id="turn0001", machine=H200):
    return TurnRecord(
        id=turn_id,
        conversation_id="talk0001",
        created_at=AT,
        prompt="Hi",
        system_prompt="",
        mode=Mode.TOGETHER,
        sampling=Sampling(),
        requests=requests,
        machine=machine,
        owner="ada@example.com",
    )


def bench_request(number, name, pass_number, when, **more):
    return BenchRequest(
        number=number,
        pass_number=pass_number,
        lane=name,
        timing=when,
        finish_reason=more.pop("finish_reason", FinishReason.STOP),
        **more,
    )


def bench(*requests, passes, state=RunState.DONE, plan="{}"):
    run = BenchRun(
        id="run00001",
        created_at=AT,
        state=state,
        title="A load test",
        plan=plan,
        lmdyno="0.2.0",
        machine=H200,
        lanes=tuple(LaneFacts(lane=lane(name)) for name in ("hf", "awq")),
        finished_at=AT,
    )
    return BenchRecord(run=run, passes=passes, requests=requests)


def bench_pass(number, start_s, end_s, concurrency):
    return BenchPass(
        number=number,
        repeat=0,
        lanes=("hf",),
        level=LoadLevel(concurrency=concurrency),
        started_at=AT,
        start_ns=start_s * S,
        end_ns=end_s * S,
    )


def walk(*durations_s):
    kinds = tuple(StepKind)
    steps = tuple(
        StepResult(
            kind=kinds[place],
            state=StepState.DONE if duration_s else StepState.SKIPPED,
            duration_s=duration_s,
            figures=(Figure(label="end to end", value=duration_s, unit=Unit.SECONDS),),
            by_hand="transformers serve /home/ada/.lmdyno/models/tiny",
        )
        for place, duration_s in enumerate(durations_s)
    )
    return WalkRun(model="tiny", id="walk00001", machine=H200, created_at=AT, lmdyno="0.2.0", steps=steps)
