"""Stand-ins for what a dashboard process has once; they keep what they were asked and answer at once."""

from collections import defaultdict
from dataclasses import replace
from datetime import timedelta

from core.access.guard import Action, authorise
from core.chat_api.servers import Reach
from core.config import LaneRegistry
from core.domain.specs import EndpointSpec, EngineKind, EngineSettings, LaneSpec, ModelSpec, Weights
from core.domain.timing import Timing
from core.domain.turns import (
    ErrorInfo,
    FinishReason,
    Phase,
    RequestRecord,
    TurnRecord,
    merge_turns,
    planned_record,
    utc_now,
)
from core.engines.manager import EngineStatus
from core.engines.registry import EngineState, Replica
from core.errors import EngineError, InputError, StoreError
from core.meter.link import Held
from core.meter.protocol import Update
from core.store.records import ConversationSummary

MODEL = ModelSpec(name="tiny", checkpoint="/models/tiny", gguf="/models/tiny.gguf")
HF = LaneSpec(
    name="hf",
    kind=EngineKind.TRANSFORMERS,
    model=MODEL,
    settings=EngineSettings(device="cpu", dtype="bfloat16"),
)
HF_Q4 = replace(HF, name="hf-q4", weights=Weights.GGUF)
REMOTE = LaneSpec(
    name="remote",
    kind=EngineKind.ENDPOINT,
    endpoint=EndpointSpec(url="http://gpu-host:23333/v1", model="tiny"),
)
BOOK = LaneRegistry(models=(MODEL,), lanes=(HF, HF_Q4, REMOTE), source=None)


def finished(request: RequestRecord, text: str, *, ttft_ms: int = 50, tpot_ms: int = 10) -> RequestRecord:
    """The record of an answer whose every word was one chunk and one token."""
    words = text.split(" ")
    timestamps = tuple((ttft_ms + place * tpot_ms) * 1_000_000 for place in range(len(words)))
    return replace(
        request,
        phase=Phase.DONE,
        device="cpu" if request.lane.is_local else None,
        text=text,
        prompt_tokens=34,
        finish_reason=FinishReason.STOP,
        timing=Timing(
            sent_ns=0,
            chunk_ns=timestamps,
            content_chars=tuple(len(word) for word in words),
            output_tokens=len(words),
            ended_ns=timestamps[-1],
        ),
    )


def failed(request: RequestRecord, error: ErrorInfo, text: str = "") -> RequestRecord:
    return replace(request, phase=Phase.DONE, finish_reason=FinishReason.ERROR, error=error, text=text)


class FakeStore:
    def __init__(self):
        self.turns: dict[str, TurnRecord] = {}
        self.error: StoreError | None = None

    def save(self, turn: TurnRecord) -> None:
        self.turns[turn.id] = turn

    def _check(self) -> None:
        if self.error:
            raise self.error

    def turn(self, turn_id):
        self._check()
        return self.turns.get(turn_id)

    def conversation(self, conversation_id):
        self._check()
        return merge_turns([t for t in self.turns.values() if t.conversation_id == conversation_id])

    def conversations(self, limit=50, *, with_images=None):
        self._check()
        by_id = defaultdict(list)
        for turn in self.turns.values():
            by_id[turn.conversation_id].append(turn)
        return tuple(
            ConversationSummary(
                id=conversation_id,
                title=turns[0].prompt,
                updated_at=turns[-1].created_at,
                turns=len(turns),
                lanes=("hf",),
            )
            for conversation_id, turns in by_id.items()
            if with_images in (None, any(turn.images for turn in turns))
        )


class FakeReachability:
    """What is known of each lane's server: nothing, unless a test says it."""

    def __init__(self):
        self.known: dict[str, Reach] = {}

    def of(self, name, find):
        return self.known.get(name)

    def forget(self, name):
        self.known.pop(name, None)


class FakeMeter:
    """Answers each request with the lane's text from `answers`, or with what `outcome` makes of it."""

    def __init__(self, store: FakeStore):
        self.store = store
        self.plans = []
        self.cancelled = []
        self.answers: dict[str, str] = {}
        self.errors: dict[str, ErrorInfo] = {}
        self.problem: ErrorInfo | None = None
        self.unreachable: EngineError | None = None
        self.before: dict[str, list[Update | None]] = defaultdict(list)
        """Updates of a lane that come before its answer; request ids are filled in."""
        self._turns: dict[str, TurnRecord] = {}

    def start(self, plan):
        authorise(Action.CHAT)
        self.plans.append(plan)
        self._turns[plan.id] = planned_record(plan)

    def hold(self, turn: TurnRecord) -> None:
        """A turn that was already running when the page came."""
        self._turns[turn.id] = turn

    def follow(self, turn_id, request_id, *, tick_s=0.1):
        if turn_id not in self._turns:
            raise InputError("The meter doesn't know this turn.", code="unknown-turn")
        request = next(r for r in self._turns[turn_id].requests if r.id == request_id)
        lane = request.lane.name
        if self.unreachable:
            raise self.unreachable
        for update in self.before[lane]:
            yield update and replace(update, request_id=request_id)
        if error := self.errors.get(lane):
            record = failed(request, error, self.answers.get(lane, ""))
        else:
            record = finished(request, self.answers.get(lane, f"Answer of {lane} here."))
        half = len(record.text) // 2
        yield Update(request_id=request_id, phase=Phase.STREAMING, content=record.text[:half])
        yield None
        self._finish(turn_id, record)
        yield Update(request_id=request_id, phase=Phase.DONE, content=record.text[half:], record=record)

    def _finish(self, turn_id, record):
        turn = self._turns[turn_id]
        requests = tuple(record if r.id == record.id else r for r in turn.requests)
        self._turns[turn_id] = replace(turn, requests=requests)
        self.store.save(self._turns[turn_id])

    def cancel(self, turn_id, request_id=None):
        self.cancelled.append(turn_id)

    def turn(self, turn_id):
        return self._turns.get(turn_id)

    def conversation(self, conversation_id):
        turns = [turn for turn in self._turns.values() if turn.conversation_id == conversation_id]
        return Held(
            turns=tuple(turns),
            last_turn_id=turns[-1].id if turns else None,
            store_problem=self.problem,
        )


class FakeManager:
    def __init__(self):
        self.ensured = []
        self.restarted = []
        self.stopped = []
        self.lanes = BOOK.lanes
        self.in_use: set[str] = set()
        self.finishing: dict[str, float] = {}
        """Engines that compute for a stopped request, since how many seconds."""
        self.refusal: EngineError | None = None
        """What `stop` and `restart` raise."""
        self.stages: dict[str, str] = {}
        self.states: dict[str, EngineState] = {}
        self.errors: dict[str, ErrorInfo] = {}
        self.replicas: dict[str, tuple[Replica, ...]] = {}
        self.nodes: dict[str, str] = {}

    def ensure(self, name):
        self.ensured.append(name)

    def restart(self, name):
        if self.refusal:
            raise self.refusal
        self.restarted.append(name)

    def stop(self, name):
        if self.refusal:
            raise self.refusal
        self.stopped.append(name)

    def configure(self, lanes):
        self.lanes = lanes

    def status(self, name):
        state = self.states.get(name, EngineState.HEALTHY)
        return EngineStatus(
            name=name,
            lane=next(lane for lane in self.lanes if lane.name == name),
            state=state,
            since=utc_now() - timedelta(seconds=75),
            elapsed_s=75.0,
            pid=4711,
            port=40000,
            url="http://127.0.0.1:40000/v1" if state is EngineState.HEALTHY else None,
            version="transformers 5.23.0" if state is EngineState.HEALTHY else None,
            device="cpu",
            stage="Loading the weights" if state is EngineState.STARTING else self.stages.get(name),
            last_log_line="Loading shard 1 of 2" if state is EngineState.STARTING else "",
            error=self.errors.get(name),
            in_use=name in self.in_use,
            finishing_s=self.finishing.get(name),
            owned=True,
            replicas=self.replicas.get(name, ()),
            node=self.nodes.get(name),
        )

    def statuses(self):
        return tuple(self.status(lane.name) for lane in self.lanes if lane.is_local)

    def log_tail(self, name, lines=40, *, replica=None):
        return f"the log of {name}" if replica is None else f"the log of replica {replica} of {name}"
