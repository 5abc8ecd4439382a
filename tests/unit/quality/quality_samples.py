"""A quality run of three lanes whose figures are easy to foresee.

The reference is right on all ten tasks but one. TurboMind answers the same; W4A16 loses three of them, parts
from the reference in two of three answers, and finds the text 0.1 nats per token less likely.
"""

from dataclasses import replace
from datetime import UTC, datetime

from core import __version__
from core.codec import encode
from core.domain.runs import (
    Prompted,
    QualityAnswer,
    QualityLane,
    QualityRecord,
    QualityRun,
    RunState,
    ScoringMethod,
    SequenceScore,
    TextScore,
    TokenizerFacts,
)
from core.domain.specs import EngineKind, EngineSettings, LaneSpec, ModelSpec, Weights
from core.domain.timing import Timing
from core.domain.turns import FinishReason, Machine
from core.quality.plan import QualityPlan, text_file
from core.quality.tasks import Grader, TaskItem

MODEL = ModelSpec(name="smol", checkpoint="/models/smol", awq="/models/smol-awq")
HF = LaneSpec(name="hf", kind=EngineKind.TRANSFORMERS, model=MODEL, settings=EngineSettings(dtype="float16"))
TURBOMIND = LaneSpec(
    name="turbomind", kind=EngineKind.TURBOMIND, model=MODEL, settings=EngineSettings(dtype="float16")
)
AWQ = LaneSpec(name="awq", kind=EngineKind.AWQ, model=MODEL, weights=Weights.AWQ)
MACHINE = Machine(host="lab", platform="Linux", python="3.12.1", gpus=("H200",))
BOOK = text_file("book.txt", b"Once upon a time.")
TASKS = tuple(
    TaskItem(id=f"t{n}", prompt=f"What is {n} + {n}?", grader=Grader.NUMBER, answers=(str(2 * n),))
    for n in range(10)
)
PROMPTS = ("Say hello.", "Say goodbye.", "Say no more.")
ANSWERS = ("Hello there, my friend.", "Goodbye then, my friend.", "Nothing more to say.")
PARTED = ("Hello there, my fiend.", "Goodbye then, my friend.", "No.")
TOKENIZER = TokenizerFacts(probe_sha256="aa", vocab_sha256="bb", template_sha256="cc")


def plan(**changes) -> QualityPlan:
    return QualityPlan(
        **{
            "lanes": (HF, TURBOMIND, AWQ),
            "reference": "hf",
            "prompts": PROMPTS,
            "tasks": TASKS,
            "task_sets": ("sums.csv",),
            "texts": (BOOK,),
            "title": "W4A16 against 16 bits",
            "id": "q1",
            **changes,
        }
    )


def record(**changes) -> QualityRecord:
    planned = plan()
    run = QualityRun(
        id=planned.id,
        created_at=datetime(2026, 11, 29, 12, tzinfo=UTC),
        state=RunState.DONE,
        title=planned.label,
        plan=encode(planned).decode(),
        lmdyno=__version__,
        machine=MACHINE,
        lanes=(
            _lane(HF, nats=1.0, weight_bytes=300_000_000, gpu_bytes=2**30),
            _lane(TURBOMIND, nats=1.0005, weight_bytes=300_000_000, gpu_bytes=2 * 2**30),
            _lane(AWQ, nats=1.1, weight_bytes=100_000_000, gpu_bytes=2 * 2**30),
        ),
        finished_at=datetime(2026, 11, 29, 12, 5, tzinfo=UTC),
    )
    answers = [
        *_prompts("hf", ANSWERS),
        *_prompts("hf", ANSWERS, repeat=1),
        *_prompts("turbomind", ANSWERS, tpot_ms=3),
        *_prompts("awq", PARTED, tpot_ms=2),
        *_tasks("hf", wrong={9}),
        *_tasks("turbomind", wrong={9}, tpot_ms=3),
        *_tasks("awq", wrong={0, 1, 2, 9}, tpot_ms=2),
    ]
    return QualityRecord(run=replace(run, **changes), answers=tuple(answers))


def _lane(lane: LaneSpec, *, nats: float, weight_bytes: int, gpu_bytes: int) -> QualityLane:
    sequences = tuple(
        SequenceScore(
            tokens=100, nll_nats=100 * nats + wiggle, top1_matches=round(100 / nats), kl_nats=nats - 1
        )
        for wiggle in (-1.0, 0.0, 1.0)
    )
    score = TextScore(text=BOOK.name, sha256="dd", method=ScoringMethod.FORWARD_PASS, sequences=sequences)
    return QualityLane(
        lane=lane,
        engine_version="transformers 5.23.0" if lane is HF else "lmdeploy 0.18.0 (turbomind)",
        device="cuda:0",
        served_model=lane.name,
        weight_bytes=weight_bytes,
        peak_gpu_bytes=gpu_bytes,
        energy_j=50.0,
        tokenizer=TOKENIZER,
        scores=(score,),
    )


def _prompts(lane: str, texts: tuple[str, ...], *, repeat: int = 0, tpot_ms: int = 30) -> list[QualityAnswer]:
    return [
        QualityAnswer(
            lane=lane,
            part=Prompted.PROMPT,
            item=item,
            repeat=repeat,
            text=text,
            prompt_tokens=12,
            finish_reason=FinishReason.STOP,
            timing=_timing(tpot_ms),
            token_ids=tuple(map(ord, text)),
        )
        for item, text in enumerate(texts)
    ]


def _tasks(lane: str, *, wrong: set[int], tpot_ms: int = 30) -> list[QualityAnswer]:
    return [
        QualityAnswer(
            lane=lane,
            part=Prompted.TASK,
            item=item,
            text="It is 1." if item in wrong else f"It is {2 * item}.",
            prompt_tokens=20,
            finish_reason=FinishReason.STOP,
            timing=_timing(tpot_ms),
        )
        for item in range(len(TASKS))
    ]


def _timing(tpot_ms: int) -> Timing:
    stamps = tuple((50 + place * tpot_ms) * 1_000_000 for place in range(4))
    return Timing(
        sent_ns=0, chunk_ns=stamps, content_chars=(1, 1, 1, 1), output_tokens=4, ended_ns=stamps[-1]
    )
