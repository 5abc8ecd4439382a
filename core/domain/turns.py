"""Turns, from the plan to the record: the prompt, the lanes, and each lane's request and answer.

A turn is one prompt and its answers; a request is one lane's part of it. Plans are made before anything is
sent, from the settings and the conversation so far; records hold the facts afterwards, partial ones too. A
running request is passed on in pieces: what is new since the last look (`Growth`), joined again by `joined`
and `grown`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from uuid import uuid4

from core.access.guard import current_identity
from core.access.identity import Person
from core.domain.conversation import MAX_IMAGES, Exchange, Message, Sampling, StoredImage, messages_for
from core.domain.specs import LaneSpec
from core.domain.timing import Timing
from core.errors import AccessDenied, InputError, LMDynoError
from core.i18n import N_, Text

MAX_LANES = 6


def new_id() -> str:
    """A short random id, fit for URLs and file names."""
    return uuid4().hex[:16]


def utc_now() -> datetime:
    return datetime.now(UTC)


class Mode(StrEnum):
    """Whether the lanes of a turn run at the same time; lanes on one machine slow each other down."""

    ONE_AFTER_ANOTHER = "one-after-another"
    TOGETHER = "together"


class FinishReason(StrEnum):
    """The reason why an answer ended; None in a record means that it has not, or that the engine
    did not say.
    """

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool-calls"
    """The model calls a tool and waits for its result, which LMDyno doesn't give."""
    CONTENT_FILTER = "content-filter"
    """The server cut the answer for what it says."""
    CANCELLED = "cancelled"
    ERROR = "error"


class Phase(StrEnum):
    """The phase that a request is in."""

    QUEUED = "queued"
    """Waits for other requests on its device, or for its place in the turn."""
    STARTING = "starting"
    """Waits for its engine to become healthy."""
    SETTLING = "settling"
    """Waits until an engine on its devices has finished a request that was stopped."""
    SENT = "sent"
    """Sent, no text yet."""
    STREAMING = "streaming"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """An error as a record keeps it: what happened, a stable code, what to do next."""

    code: str
    message: Text
    hint: Text = ""

    @classmethod
    def of(cls, error: LMDynoError) -> "ErrorInfo":
        return cls(code=error.code, message=error.message, hint=error.hint)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestPlan:
    """One lane's part of a turn, before it is sent."""

    lane: LaneSpec
    messages: tuple[Message, ...]
    id: str = field(default_factory=new_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnPlan:
    """One prompt for several lanes; `requests` in the order in which they run one after another."""

    conversation_id: str
    prompt: str
    requests: tuple[RequestPlan, ...]
    sampling: Sampling
    mode: Mode = Mode.ONE_AFTER_ANOTHER
    system_prompt: str = ""
    images: tuple[StoredImage, ...] = ()
    """Shown with the prompt; earlier ones are in the requests' messages."""
    replaces: str | None = None
    """The turn that this one is asked instead of (regenerated or edited); its record stays."""
    owner: str | None = None
    """Who asked (`core.access`); None where there are no accounts."""
    id: str = field(default_factory=new_id)
    created_at: datetime = field(default_factory=utc_now)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageWindow:
    """The machine's load while a request ran, from its sending to the end of its stream.

    Energy and power are those of the whole boards that the engine is on; None where they can't be told.
    """

    duration_s: float
    energy_j: float | None = None
    """The change of NVML's energy counter; what the boards draw when idle is in it."""
    energy_gap: Text | None = None
    """Why the energy is not known."""
    mean_power_w: float | None = None
    idle_power_w: float | None = None
    """Measured shortly before the request, while no engine was busy."""
    peak_used_bytes: int | None = None
    """Memory in use on the GPUs, by whomever."""
    peak_gpu_bytes: int | None = None
    """The engine's own GPU memory."""
    peak_resident_bytes: int | None = None
    """The engine's own host memory."""
    mean_cpu_ratio: float | None = None
    """CPU time of the engine's processes by wall time; 1.0 is one whole core."""
    others: tuple[str, ...] = ()
    """Other lanes that were at work on this machine meanwhile; with any the window is shared."""

    @property
    def shared(self) -> bool:
        return bool(self.others)

    @property
    def energy_above_idle_j(self) -> float | None:
        """Energy above the boards' idle power; None unless both are known."""
        if self.energy_j is None or self.idle_power_w is None:
            return None
        return max(0.0, self.energy_j - self.idle_power_w * self.duration_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The place of an engine, and the one from which it was measured."""

    node: str | None = None
    """The node of the Ray cluster that the engine ran on; None for this machine and for remote servers."""
    measured_on: str | None = None
    """The node whose processes sent the requests and took the times; None for the machine of the record."""
    over_network: bool | None = None
    """Whether the server's address was one of another machine than that which took the times.

    None if the name could not be resolved. A tunnel or a proxy on the own machine counts as no network.
    """

    @property
    def path(self) -> Text:
        """What lay between meter and engine, in words."""
        if self.over_network is None:
            return N_("unknown")
        if self.over_network:
            return N_("a network")
        if self.measured_on:
            return N_("no network, measured on {node}", node=self.measured_on)
        return N_("no network")

    @property
    def caption(self) -> Text:
        """Beside figures: where the engine ran if not on this machine, and a network; "" for neither."""
        if self.node is None:
            return N_("over a network") if self.over_network else ""
        if self.over_network:
            return N_("on node {node}, over a network", node=self.node)
        if self.measured_on == self.node:
            return N_("on node {node}, measured there", node=self.node)
        return N_("on node {node}", node=self.node)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """The record of one lane's request in a turn."""

    id: str
    turn_id: str
    lane: LaneSpec
    messages: tuple[Message, ...]
    phase: Phase = Phase.QUEUED
    engine_version: str | None = None
    device: str | None = None
    served_model: str | None = None
    place: Place | None = None
    """None for records of versions that did not note it."""
    sent_at: datetime | None = None
    """Wall clock at `timing.sent_ns`."""
    timing: Timing | None = None
    """None for a request that was never sent."""
    text: str = ""
    reasoning: str = ""
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    """Prompt tokens that the engine took from its prefix cache, where it says so."""
    finish_reason: FinishReason | None = None
    error: ErrorInfo | None = None
    notes: tuple[Text, ...] = ()
    """What a reader of the numbers must know, such as a setting that the server does not take."""
    window: UsageWindow | None = None
    """None for remote servers, and for requests that did not come to their end."""
    stopped_by: Person | None = None
    """Who cancelled it; None where there are no accounts, and if the dashboard ended."""

    @classmethod
    def of(cls, plan: RequestPlan, turn_id: str, *, phase: Phase = Phase.QUEUED) -> "RequestRecord":
        """The planned request as it stands before anything has happened."""
        return cls(id=plan.id, turn_id=turn_id, lane=plan.lane, messages=plan.messages, phase=phase)

    @property
    def image_count(self) -> int:
        """Images in all its messages; with any, TTFT holds the vision encoder's work too."""
        return sum(len(message.images) for message in self.messages)

    @property
    def output_tokens(self) -> int | None:
        return self.timing.output_tokens if self.timing else None

    @property
    def ttft_s(self) -> float | None:
        return self.timing.ttft_s if self.timing else None

    @property
    def tpot_s(self) -> float | None:
        return self.timing.tpot_s if self.timing else None

    @property
    def e2e_s(self) -> float | None:
        return self.timing.e2e_s if self.timing else None

    @property
    def decode_tok_per_s(self) -> float | None:
        return self.timing.decode_tok_per_s if self.timing else None

    @property
    def energy_j_per_token(self) -> float | None:
        """Energy of the boards by output tokens, the prompt's share included."""
        return self._per_token(self.window.energy_j if self.window else None)

    @property
    def energy_above_idle_j_per_token(self) -> float | None:
        return self._per_token(self.window.energy_above_idle_j if self.window else None)

    def _per_token(self, energy_j: float | None) -> float | None:
        return energy_j / self.output_tokens if energy_j is not None and self.output_tokens else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The machine a turn ran on; None where it can't be told."""

    host: str
    platform: str
    python: str
    cpu: str | None = None
    cores: int | None = None
    memory_bytes: int | None = None
    gpus: tuple[str, ...] = ()
    driver: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnRecord:
    """A turn as the store keeps it."""

    id: str
    conversation_id: str
    created_at: datetime
    prompt: str
    system_prompt: str
    mode: Mode
    sampling: Sampling
    requests: tuple[RequestRecord, ...]
    machine: Machine | None = None
    replaces: str | None = None
    images: tuple[StoredImage, ...] = ()
    owner: str | None = None
    """Who asked (`core.access`); None where there are no accounts."""

    @classmethod
    def of(
        cls, plan: TurnPlan, requests: tuple[RequestRecord, ...], machine: Machine | None = None
    ) -> "TurnRecord":
        """The plan with what became of its requests."""
        return cls(
            id=plan.id,
            conversation_id=plan.conversation_id,
            created_at=plan.created_at,
            prompt=plan.prompt,
            system_prompt=plan.system_prompt,
            mode=plan.mode,
            sampling=plan.sampling,
            requests=requests,
            machine=machine,
            replaces=plan.replaces,
            images=plan.images,
            owner=plan.owner,
        )

    @property
    def done(self) -> bool:
        return all(request.phase is Phase.DONE for request in self.requests)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatSettings:
    """The settings of the controls, for the next turn."""

    lanes: tuple[LaneSpec, ...]
    mode: Mode
    sampling: Sampling
    baseline: str | None = None
    """The lane that the others' speed is compared with; it changes no request."""
    system_prompt: str = ""


def plan_turn(
    prompt: str,
    settings: ChatSettings,
    *,
    conversation_id: str,
    turns: Sequence[TurnRecord],
    images: tuple[StoredImage, ...] = (),
    replaces: str | None = None,
) -> TurnPlan:
    """The next turn of a conversation, or one in the place of `replaces`, asked by whoever acts.

    Raises InputError, and AccessDenied for a conversation that somebody else began.

    Each lane is sent its own history: its answers in the turns before, with those turns' images.
    """
    if not prompt.strip():
        raise InputError(N_("The prompt is empty."), hint=N_("Enter a question."))
    if len(images) > MAX_IMAGES:
        raise InputError(
            N_("Too many images ({n}).", n=len(images)),
            hint=N_("Choose at most {most} images per question.", most=MAX_IMAGES),
        )
    if not 1 <= len(settings.lanes) <= MAX_LANES:
        raise InputError(
            N_("No lane is selected.")
            if not settings.lanes
            else N_("Too many lanes ({n}) are selected.", n=len(settings.lanes)),
            hint=N_("Select 1 to {most} lanes in the sidebar.", most=MAX_LANES),
        )
    identity = current_identity()
    if turns and turns[0].owner != identity.owner and not identity.is_operator:
        raise AccessDenied(
            N_("This conversation belongs to somebody else."),
            hint=N_("You can read it. To ask something, start a new conversation."),
        )
    earlier = _turns_before(turns, replaces)
    return TurnPlan(
        conversation_id=conversation_id,
        prompt=prompt,
        system_prompt=settings.system_prompt,
        mode=settings.mode,
        sampling=settings.sampling,
        images=images,
        replaces=replaces,
        owner=identity.owner,
        requests=tuple(
            RequestPlan(
                lane=lane,
                messages=messages_for(
                    prompt,
                    system=settings.system_prompt,
                    earlier=history(lane.name, earlier),
                    images=images,
                ),
            )
            for lane in settings.lanes
        ),
    )


def _turns_before(turns: Sequence[TurnRecord], turn_id: str | None) -> Sequence[TurnRecord]:
    """The turns before the given one; all of them for None."""
    places = [place for place, turn in enumerate(turns) if turn.id == turn_id]
    return turns[: places[0]] if places else turns


def planned_record(plan: TurnPlan) -> TurnRecord:
    """The turn as it stands before anything was sent."""
    return TurnRecord.of(plan, tuple(RequestRecord.of(request, plan.id) for request in plan.requests))


def merge_turns(*sources: Sequence[TurnRecord]) -> tuple[TurnRecord, ...]:
    """One conversation from several views of it, oldest first; a later source knows a turn better.

    A finished record is never given up for an unfinished one. Turns that another one replaces are left out.
    """
    by_id: dict[str, TurnRecord] = {}
    for source in sources:
        for turn in source:
            known = by_id.get(turn.id)
            if known is None or not known.done or turn.done:
                by_id[turn.id] = turn
    replaced = {turn.replaces for turn in by_id.values()}
    kept = [turn for turn in by_id.values() if turn.id not in replaced]
    return tuple(sorted(kept, key=lambda turn: turn.created_at))


def history(lane: str, turns: Sequence[TurnRecord]) -> list[Exchange]:
    """The turns as this lane knows them."""
    return [Exchange(turn.prompt, _answer(lane, turn), turn.images) for turn in turns]


def _answer(lane: str, turn: TurnRecord) -> str:
    """Return what the lane said in that turn; "" if it failed or was not asked. A stopped answer counts."""
    for request in turn.requests:
        if request.lane.name == lane and request.finish_reason is not FinishReason.ERROR:
            return request.text
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """A request as it stands, but of its answer only the chunks from `first_chunk` on."""

    record: RequestRecord
    """Its text, reasoning and the lists of its timing hold those chunks alone."""
    first_chunk: int

    @property
    def next_chunk(self) -> int:
        """Where the next growth begins."""
        return self.first_chunk + (len(self.record.timing.chunk_ns) if self.record.timing else 0)


def joined(growths: Sequence[Growth]) -> Growth:
    """Growths of one request that follow each other, as one; all but the answer is the last one's."""
    first, last = growths[0], growths[-1]
    answer = grown(replace(last.record, text="", reasoning="", timing=None), growths)
    return Growth(record=answer, first_chunk=first.first_chunk)


def grown(record: RequestRecord, growths: Sequence[Growth]) -> RequestRecord:
    """The record with what its answer has grown by since; they follow each other."""
    records = (record, *(growth.record for growth in growths))
    return replace(
        record,
        text="".join(part.text for part in records),
        reasoning="".join(part.reasoning for part in records),
        timing=_joined_timing([part.timing for part in records if part.timing is not None]),
    )


def _joined_timing(parts: Sequence[Timing]) -> Timing | None:
    if not parts:
        return None
    last = parts[-1]
    chunked = [part for part in parts if part.chunk_ns]
    has_reasoning = any(part.reasoning_chars for part in chunked)
    names_tokens = chunked and all(part.chunk_tokens is not None for part in chunked)
    return replace(
        last,
        chunk_ns=tuple(timestamp for part in chunked for timestamp in part.chunk_ns),
        content_chars=tuple(chars for part in chunked for chars in part.content_chars),
        # A piece without any reasoning has no list of it.
        reasoning_chars=tuple(
            chars for part in chunked for chars in part.reasoning_chars or (0,) * len(part.chunk_ns)
        )
        if has_reasoning
        else (),
        chunk_tokens=tuple(tokens for part in chunked for tokens in part.chunk_tokens or ())
        if names_tokens
        else None,
    )
