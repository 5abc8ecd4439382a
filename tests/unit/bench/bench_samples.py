"""Plans, lanes and records with known figures for the tests of load tests."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from core.bench.plan import BenchPlan, Load, Workload
from core.bench.run.runner import new_run
from core.domain.runs import BenchPass, BenchRecord, BenchRequest, LaneFacts, LoadLevel, RunState
from core.domain.specs import Dialect, EndpointSpec, EngineKind, EngineSettings, LaneSpec, ModelSpec
from core.domain.timing import Timing
from core.domain.turns import ErrorInfo, FinishReason, Machine

NS = 1_000_000_000
MACHINE = Machine(host="lab", platform="Linux", python="3.12.1", cpu="EPYC", gpus=("H100",))
HF = LaneSpec(
    name="hf",
    kind=EngineKind.TRANSFORMERS,
    model=ModelSpec(name="tiny", checkpoint="/models/tiny"),
    settings=EngineSettings(device="cpu"),
)


def remote(
    name: str, url: str = "http://gpu:1/v1", *turns: Mapping[str, object], **scenario: object
) -> LaneSpec:
    """A lane at an endpoint; `scenario` is what the scripted server plays, `turns` change it in turn."""
    model = [{**scenario, **turn} for turn in turns] if turns else scenario
    return LaneSpec(
        name=name,
        kind=EngineKind.ENDPOINT,
        endpoint=EndpointSpec(
            url=url, model=json.dumps(model), dialect=Dialect(scenario.get("dialect", "generic"))
        ),
    )


A, B = remote("a"), remote("b")


def a_plan(*lanes: LaneSpec, **changes: object) -> BenchPlan:
    plan = BenchPlan(
        lanes=lanes or (A, B),
        workload=Workload(prompt_tokens=32, output_tokens=11),
        load=Load(concurrencies=(1,)),
        requests=4,
        created_at=datetime(2026, 3, 1, 12, tzinfo=UTC),
    )
    return replace(plan, **changes)


def a_timing(
    *,
    sent_s: float = 0.0,
    ttft_s: float = 0.1,
    gap_s: float = 0.01,
    chunks: int = 11,
    tokens_per_chunk: int = 1,
    role_first: bool = False,
    tail_s: float = 0.0,
) -> Timing:
    """An answer of `chunks` chunks, `gap_s` apart; `tail_s` is from the last one to the end of the stream."""
    sent = round(sent_s * NS)
    first = sent + round(ttft_s * NS)
    timestamps = tuple(first + index * round(gap_s * NS) for index in range(chunks))
    return Timing(
        sent_ns=sent,
        first_event_ns=sent + NS // 1000 if role_first else first,
        chunk_ns=timestamps,
        content_chars=(1,) * chunks,
        chunk_tokens=(tokens_per_chunk,) * chunks,
        output_tokens=chunks * tokens_per_chunk,
        ended_ns=timestamps[-1] + round(tail_s * NS),
    )


def a_request(number: int, lane: str = "a", *, pass_number: int = 0, **changes: object) -> BenchRequest:
    request = BenchRequest(
        number=number,
        pass_number=pass_number,
        lane=lane,
        timing=a_timing(),
        prompt_tokens=40,
        finish_reason=FinishReason.LENGTH,
    )
    return replace(request, **changes)


def a_failure(number: int, code: str, lane: str = "a") -> BenchRequest:
    return a_request(
        number,
        lane,
        timing=None,
        finish_reason=FinishReason.ERROR,
        error=ErrorInfo(code=code, message="It failed"),
    )


def a_pass(number: int = 0, lanes: tuple[str, ...] = ("a",), **changes: object) -> BenchPass:
    each = BenchPass(
        number=number,
        repeat=0,
        lanes=lanes,
        level=LoadLevel(concurrency=1),
        started_at=datetime(2026, 3, 1, 12, tzinfo=UTC),
        start_ns=0,
        end_ns=NS,
    )
    return replace(each, **changes)


def a_record(
    plan: BenchPlan, passes: Sequence[BenchPass], requests: Sequence[BenchRequest], **changes: object
) -> BenchRecord:
    run = replace(
        new_run(plan, MACHINE),
        state=RunState.DONE,
        created_at=plan.created_at,
        lanes=tuple(LaneFacts(lane=lane, engine_version="script 1") for lane in plan.lanes),
        **changes,
    )
    return BenchRecord(run=run, passes=tuple(passes), requests=tuple(requests))
