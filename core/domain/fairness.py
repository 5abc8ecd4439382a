"""The fairness guard: what keeps the lanes of a turn from being compared as equals.

A difference is not forbidden (bf16 against 4 bit may be the very question), but it must be visible. Before a
turn the lanes' settings are compared, afterwards what the engines really did. Differences in the weights'
form and in dtype are marked as `intended`, since lanes exist to show them. Turns with the same prompt and
settings are repeats of each other: they show the spread, which a single run can't.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from core.domain.conversation import Sampling
from core.domain.specs import EngineKind, LaneSpec
from core.domain.turns import FinishReason, Place, RequestPlan, RequestRecord, TurnRecord
from core.i18n import N_, N_plural, Text, _
from core.units import count

LMDEPLOY_KINDS = frozenset({EngineKind.TURBOMIND, EngineKind.AWQ, EngineKind.PYTORCH})


@dataclass(frozen=True, slots=True)
class Flag:
    """One visible difference between the lanes of a turn."""

    subject: Text
    """The thing that differs, such as `prompt tokens`."""
    by_lane: Mapping[str, Text]
    """What each lane has, by the lane's name."""
    intended: bool = False
    """Weights and dtype differ because that is what is being compared."""
    compares: bool = True
    """Whether lanes differ from each other; else a lane differs from what was asked of it."""

    @property
    def text(self) -> str:
        """`prompt tokens: 41 (hf) · 43 (awq)`, in the current language; lanes that agree are grouped."""
        lanes_of: dict[Text, list[str]] = {}
        for lane, value in self.by_lane.items():
            lanes_of.setdefault(value, []).append(lane)
        values = " · ".join(f"{_(value)} ({', '.join(names)})" for value, names in lanes_of.items())
        return _("{name}: {value}", name=self.subject, value=values)


def before(
    requests: Sequence[RequestPlan | RequestRecord], *, images: Mapping[str, Text] | None = None
) -> tuple[Flag, ...]:
    """Differences that are known before anything is sent: models, settings and messages.

    `images` tells, by lane, what its model is given of the turn's images, where that is known.
    """
    lanes = [request.lane for request in requests]
    planned = [request.lane for request in requests if isinstance(request, RequestPlan)]
    flags = [
        _compare(N_("model"), lanes, _model),
        _compare(N_("weights"), lanes, lambda lane: lane.weights if lane.model else None, intended=True),
        _compare("dtype", lanes, lambda lane: lane.settings.dtype if lane.is_local else None, intended=True),
        _compare(N_("KV cache"), lanes, _kv_format, intended=True),
        _compare(N_("GPUs"), lanes, _gpus, intended=True),
        _compare(N_("context limit"), lanes, _context),
        _compare(N_("batch limit"), lanes, _batch_limit),
        _compare(N_("prefix caching"), lanes, _prefix_cache),
        _compare(N_("node"), planned, lambda lane: lane.node),
        _difference(
            N_("history"),
            {r.lane.name: N_plural("{n} message", "{n} messages", len(r.messages)) for r in requests},
        ),
        _difference(
            N_("prompt"),
            {
                r.lane.name: N_plural("{n} character", "{n} characters", len(r.messages[-1].content))
                for r in requests
                if r.messages
            },
        ),
        _difference(N_("images in the conversation"), {r.lane.name: _shown(r) for r in requests}),
        _difference(N_("images as the model sees them"), images or {}),
    ]
    return tuple(flag for flag in flags if flag)


def after(turn: TurnRecord) -> tuple[Flag, ...]:
    """Differences that the engines' own figures show; only lanes that finished are compared."""
    done = [r for r in turn.requests if r.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)]
    flags = [
        _difference(N_("prompt tokens"), _known(done, lambda r: r.prompt_tokens)),
        _difference(N_("cached prompt tokens"), _known(done, lambda r: r.cached_tokens)),
    ]
    flags += places({r.lane.name: r.place for r in done})
    flags.append(_wrong_length(turn.sampling, done))
    notes = {r.lane.name: "; ".join(r.notes) for r in turn.requests if r.notes}
    if notes:
        flags.append(Flag(N_("sent differently"), notes, compares=False))
    return tuple(flag for flag in flags if flag)


def places(by_lane: Mapping[str, Place | None]) -> tuple[Flag, ...]:
    """Lanes on different machines, and lanes with a network between meter and engine beside others without.

    Lanes whose place was not noted are left out.
    """
    known = {name: place for name, place in by_lane.items() if place}
    flags = [
        _difference(N_("node"), {name: _node(place) for name, place in known.items() if _node(place)}),
        _difference(
            N_("between meter and engine"),
            {
                name: N_("a network") if place.over_network else N_("no network")
                for name, place in known.items()
                if place.over_network is not None
            },
        ),
    ]
    return tuple(flag for flag in flags if flag)


def _node(place: Place) -> Text:
    """ "" for a server that somebody else runs: which machine that is, is not known."""
    if place.node is not None:
        return place.node
    return N_("this machine") if place.over_network is False else ""


def _wrong_length(sampling: Sampling, done: Iterable[RequestRecord]) -> Flag | None:
    """Answers that are not as long as was asked, by the engines' own counts."""
    limit = sampling.max_tokens
    counts = {r.lane.name: r.output_tokens for r in done}
    if sampling.fixed_length:
        wrong = {
            name: N_("{n} of {limit}", n=count(n), limit=count(limit))
            for name, n in counts.items()
            if n != limit
        }
        return Flag(N_("fixed length not kept"), wrong, compares=False) if wrong else None
    over = {
        name: N_("{n} of at most {limit}", n=count(n), limit=count(limit))
        for name, n in counts.items()
        if n is not None and n > limit
    }
    return Flag(N_("token limit exceeded"), over, compares=False) if over else None


def _known(records: Iterable[RequestRecord], value: Callable[[RequestRecord], int | None]) -> dict[str, str]:
    return {r.lane.name: str(value(r)) for r in records if value(r) is not None}


def _compare(
    subject: Text,
    lanes: Iterable[LaneSpec],
    value: Callable[[LaneSpec], Text | None],
    *,
    intended: bool = False,
) -> Flag | None:
    known = {lane.name: value(lane) for lane in lanes}
    return _difference(subject, {name: v for name, v in known.items() if v is not None}, intended=intended)


def _difference(subject: Text, by_lane: Mapping[str, Text], *, intended: bool = False) -> Flag | None:
    return Flag(subject, by_lane, intended) if len(set(by_lane.values())) > 1 else None


def _model(lane: LaneSpec) -> str | None:
    if lane.model:
        return lane.model.name
    return lane.endpoint.model if lane.endpoint else None


def _shown(request: RequestPlan | RequestRecord) -> str:
    return str(sum(len(message.images) for message in request.messages))


def _kv_format(lane: LaneSpec) -> Text | None:
    if lane.kind not in LMDEPLOY_KINDS:
        return None
    if not lane.settings.quant_policy:
        return N_("same as dtype")
    return N_("{bits}-bit", bits=lane.settings.quant_policy)


def _context(lane: LaneSpec) -> Text | None:
    if not lane.is_local:
        return None
    if lane.kind not in LMDEPLOY_KINDS:
        return N_("the model's limit")
    return N_("{n} tokens", n=count(lane.settings.session_len))


def _batch_limit(lane: LaneSpec) -> Text | None:
    if lane.kind in LMDEPLOY_KINDS:
        return N_("{n} requests at once", n=lane.settings.requests_at_once)
    if lane.kind is EngineKind.TRANSFORMERS:
        return N_("continuous batching") if lane.settings.continuous_batching else N_("one request at a time")
    return None


def _gpus(lane: LaneSpec) -> str | None:
    return str(lane.settings.gpu_count) if lane.kind in LMDEPLOY_KINDS else None


def _prefix_cache(lane: LaneSpec) -> str | None:
    if not lane.is_local:
        return None
    return "on" if lane.settings.enable_prefix_caching else "off"


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range of a figure over runs."""

    n: int
    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeats:
    """One lane's runs; None where no run has the figure."""

    lane: str
    ttft_s: Spread | None
    decode_tok_per_s: Spread | None
    e2e_s: Spread | None


def comparable(turns: Sequence[TurnRecord]) -> list[TurnRecord]:
    """Of a turn's versions, the last one given, those that ran the same prompt in the same way."""
    if not turns:
        return []
    last = turns[-1]
    return [turn for turn in turns if _same(turn, last)]


def repeats(turns: Sequence[TurnRecord]) -> list[Repeats]:
    """The lanes of the last turn over all turns, without requests that failed or were stopped."""
    if not turns:
        return []
    lanes = [request.lane for request in turns[-1].requests]
    repeated = []
    for lane in lanes:
        records = [
            request
            for turn in turns
            for request in turn.requests
            if request.lane == lane and request.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
        ]
        repeated.append(
            Repeats(
                lane=lane.name,
                ttft_s=_spread(records, lambda record: record.ttft_s),
                decode_tok_per_s=_spread(records, lambda record: record.decode_tok_per_s),
                e2e_s=_spread(records, lambda record: record.e2e_s),
            )
        )
    return repeated


def _same(turn: TurnRecord, other: TurnRecord) -> bool:
    return (turn.prompt, turn.system_prompt, turn.mode, turn.sampling, turn.images) == (
        other.prompt,
        other.system_prompt,
        other.mode,
        other.sampling,
        other.images,
    )


def _spread(
    records: Sequence[RequestRecord], figure: Callable[[RequestRecord], float | None]
) -> Spread | None:
    values = [value for record in records if (value := figure(record)) is not None]
    if not values:
        return None
    return Spread(len(values), median(values), min(values), max(values))
