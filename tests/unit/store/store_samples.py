"""Plans and records to store, and writers for other processes."""

from dataclasses import replace
from datetime import UTC, datetime
from multiprocessing.synchronize import Barrier

from core.access.identity import Person
from core.domain.conversation import Message, Role, Sampling, StoredImage
from core.domain.specs import Dialect, EndpointSpec, EngineKind, EngineSettings, LaneSpec, ModelSpec, Weights
from core.domain.timing import Timing
from core.domain.turns import (
    ErrorInfo,
    FinishReason,
    Machine,
    Mode,
    Phase,
    Place,
    RequestPlan,
    RequestRecord,
    TurnPlan,
    UsageWindow,
)
from core.store.turns import Store

HF = LaneSpec(
    name="hf",
    kind=EngineKind.TRANSFORMERS,
    model=ModelSpec(name="smol", checkpoint="/models/smol", gguf="/models/smol.gguf"),
    weights=Weights.GGUF,
    settings=EngineSettings(device="cpu", devices=(0, 1), dtype="bfloat16"),
)
REMOTE = LaneSpec(
    name="remote",
    kind=EngineKind.ENDPOINT,
    endpoint=EndpointSpec(url="http://gpu:23333/v1", dialect=Dialect.LMDEPLOY, api_key_name="KEY"),
)
MACHINE = Machine(
    host="lab",
    platform="Linux",
    python="3.12.1",
    cpu="EPYC",
    cores=64,
    memory_bytes=2**38,
    gpus=("H100", "H100"),
    driver="580.1",
)
IMAGE = StoredImage(
    sha256="ab" * 32, media_type="image/png", width_px=224, height_px=168, size_bytes=9_000, name="是 x.png"
)
QUESTION = Message(Role.USER, "What is the capital of France?")


def a_plan(*lanes: LaneSpec, messages: tuple[Message, ...] = (QUESTION,), **changes: object) -> TurnPlan:
    plan = TurnPlan(
        conversation_id="talk",
        prompt="What is the capital of France?",
        requests=tuple(RequestPlan(lane=lane, messages=messages) for lane in lanes or (HF, REMOTE)),
        sampling=Sampling(),
    )
    return replace(plan, **changes)


def a_record(plan: TurnPlan, position: int = 0, **changes: object) -> RequestRecord:
    """The record of a planned request before anything happened, with changes."""
    request = plan.requests[position]
    return replace(
        RequestRecord(id=request.id, turn_id=plan.id, lane=request.lane, messages=request.messages),
        **changes,
    )


def a_full_record(plan: TurnPlan, position: int = 0) -> RequestRecord:
    """A record in which no field has its default."""
    return a_record(
        plan,
        position,
        phase=Phase.DONE,
        engine_version="transformers 5.23.0",
        device="cuda:0",
        served_model="smol@main",
        place=Place(node="gpu1", measured_on="gpu2", over_network=True),
        sent_at=datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC),
        timing=Timing(
            sent_ns=5_000_000_000,
            first_event_ns=5_010_000_000,
            chunk_ns=(5_020_000_000, 5_020_000_000, 5_031_234_567),
            content_chars=(0, 3, 2),
            reasoning_chars=(4, 0, 0),
            chunk_tokens=(1, 2, 1),
            output_tokens=4,
            ended_ns=5_040_000_000,
        ),
        text="Par是",
        reasoning="hmm…",
        prompt_tokens=12,
        cached_tokens=8,
        finish_reason=FinishReason.ERROR,
        error=ErrorInfo(code="engine-crashed", message="It died.", hint="Start it again."),
        notes=("top_k is not taken", "seed is not taken"),
        window=UsageWindow(
            duration_s=0.04,
            energy_j=12.5,
            energy_gap="none",
            mean_power_w=312.5,
            idle_power_w=71.0,
            peak_used_bytes=2**35,
            peak_gpu_bytes=2**34,
            peak_resident_bytes=2**31,
            mean_cpu_ratio=0.9,
            others=("awq",),
        ),
        stopped_by=Person(id="ada@example.com", name="Ada"),
    )


def full_plan() -> TurnPlan:
    """A plan in which no field has its default."""
    return a_plan(
        messages=(Message(Role.SYSTEM, "Be short."), replace(QUESTION, images=(IMAGE, IMAGE))),
        sampling=Sampling(
            temperature=0.7,
            top_p=0.9,
            top_k=40,
            repetition_penalty=1.1,
            seed=7,
            max_tokens=64,
            fixed_length=True,
        ),
        mode=Mode.TOGETHER,
        system_prompt="Be short.",
        images=(IMAGE, IMAGE),
        replaces="an-earlier-turn",
        owner="bob@example.com",
        created_at=datetime(2026, 3, 1, 12, 30, 0, 5, tzinfo=UTC),
    )


def write_turns(database_url: str, conversation_id: str, count: int) -> None:
    """The work of one process: open the store, then save turns with a few updates each."""
    store = Store(database_url, lock_timeout_s=60)
    store.open()
    for _ in range(count):
        plan = a_plan(conversation_id=conversation_id)
        store.save_turn(plan, MACHINE)
        for position in range(len(plan.requests)):
            for text in ("P", "Pari", "Paris"):
                store.save_request(a_record(plan, position, phase=Phase.STREAMING, text=text))
            store.save_request(a_full_record(plan, position))
    store.close()


def open_in_step(database_urls: list[str], barrier: Barrier) -> None:
    """The work of one process: open each store at the same moment as the other processes do."""
    for url in database_urls:
        barrier.wait(60)
        store = Store(url, lock_timeout_s=60)
        store.open()
        store.close()
