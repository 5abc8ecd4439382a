"""The fairness guard: what keeps the lanes of a turn from being compared as equals.

A difference is not forbidden (bf16 against 4 bit may be the very question), but it must be visible. Before a
turn the lanes' settings are compared, afterwards what the engines really did. Differences in the weights'
form and in dtype are marked as `intended`, since lanes exist to show them.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from core.domain.sampling import Sampling
from core.domain.specs import EngineKind, LaneSpec
from core.domain.turns import FinishReason, RequestPlan, RequestRecord, TurnRecord

LMDEPLOY_KINDS = frozenset({EngineKind.TURBOMIND, EngineKind.AWQ, EngineKind.PYTORCH})


@dataclass(frozen=True, slots=True)
class Flag:
    """One visible difference between the lanes of a turn."""

    what: str
    """The thing that differs, such as `prompt tokens`."""
    by_lane: Mapping[str, str]
    """What each lane has, by the lane's name."""
    intended: bool = False
    """Weights and dtype differ because that is what is being compared."""
    compares: bool = True
    """Whether lanes differ from each other; else a lane differs from what was asked of it."""

    @property
    def text(self) -> str:
        """`prompt tokens: 41 (hf) · 43 (awq)`; lanes that agree are named together."""
        lanes_of: dict[str, list[str]] = {}
        for lane, value in self.by_lane.items():
            lanes_of.setdefault(value, []).append(lane)
        return f"{self.what}: " + " · ".join(f"{v} ({', '.join(names)})" for v, names in lanes_of.items())


def before(
    requests: Sequence[RequestPlan | RequestRecord], *, images: Mapping[str, str] | None = None
) -> tuple[Flag, ...]:
    """Differences that are known before anything is sent: models, settings and messages.

    `images` tells, by lane, what its model is given of the turn's images, where that is known.
    """
    lanes = [request.lane for request in requests]
    flags = [
        _compare("model", lanes, _model),
        _compare("weights", lanes, lambda lane: lane.weights if lane.model else None, intended=True),
        _compare("dtype", lanes, lambda lane: lane.settings.dtype if lane.is_local else None, intended=True),
        _compare("KV cache", lanes, _kv_format, intended=True),
        _compare("context limit", lanes, _context),
        _compare("batch limit", lanes, _batch_limit),
        _compare("prefix cache", lanes, _prefix_cache),
        _difference("history", {r.lane.name: f"{len(r.messages)} messages" for r in requests}),
        _difference(
            "prompt",
            {r.lane.name: f"{len(r.messages[-1].content)} characters" for r in requests if r.messages},
        ),
        _difference("images in the conversation", {r.lane.name: _shown(r) for r in requests}),
        _difference("images as the model sees them", images or {}),
    ]
    return tuple(flag for flag in flags if flag)


def after(turn: TurnRecord) -> tuple[Flag, ...]:
    """Differences that the engines' own figures show; only lanes that finished are compared."""
    done = [r for r in turn.requests if r.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)]
    flags = [
        _difference("prompt tokens", _known(done, lambda r: r.prompt_tokens)),
        _difference("prompt tokens from a cache", _known(done, lambda r: r.cached_tokens)),
    ]
    flags.append(_wrong_length(turn.sampling, done))
    notes = {r.lane.name: "; ".join(r.notes) for r in turn.requests if r.notes}
    if notes:
        flags.append(Flag("sent differently", notes, compares=False))
    return tuple(flag for flag in flags if flag)


def _wrong_length(sampling: Sampling, done: Iterable[RequestRecord]) -> Flag | None:
    """Answers that are not as long as was asked, by the engines' own counts."""
    limit = sampling.max_tokens
    counts = {r.lane.name: r.output_tokens for r in done}
    if sampling.fixed_length:
        wrong = {name: f"{n} of {limit}" for name, n in counts.items() if n != limit}
        return Flag("fixed length was not kept", wrong, compares=False) if wrong else None
    over = {name: f"{n:,} of at most {limit:,}" for name, n in counts.items() if n is not None and n > limit}
    return Flag("token limit exceeded", over, compares=False) if over else None


def _known(records: Iterable[RequestRecord], value: Callable[[RequestRecord], int | None]) -> dict[str, str]:
    return {r.lane.name: str(value(r)) for r in records if value(r) is not None}


def _compare(
    what: str,
    lanes: Iterable[LaneSpec],
    value: Callable[[LaneSpec], str | None],
    *,
    intended: bool = False,
) -> Flag | None:
    known = {lane.name: value(lane) for lane in lanes}
    return _difference(what, {name: v for name, v in known.items() if v is not None}, intended=intended)


def _difference(what: str, by_lane: Mapping[str, str], *, intended: bool = False) -> Flag | None:
    return Flag(what, by_lane, intended) if len(set(by_lane.values())) > 1 else None


def _model(lane: LaneSpec) -> str | None:
    if lane.model:
        return lane.model.name
    return lane.endpoint.model if lane.endpoint else None


def _shown(request: RequestPlan | RequestRecord) -> str:
    return str(sum(len(message.images) for message in request.messages))


def _kv_format(lane: LaneSpec) -> str | None:
    if lane.kind not in LMDEPLOY_KINDS:
        return None
    return f"{lane.settings.quant_policy} bit" if lane.settings.quant_policy else "dtype"


def _context(lane: LaneSpec) -> str | None:
    if not lane.is_local:
        return None
    return f"{lane.settings.session_len:,} tokens" if lane.kind in LMDEPLOY_KINDS else "the model's own"


def _batch_limit(lane: LaneSpec) -> str | None:
    if lane.kind in LMDEPLOY_KINDS:
        return f"{lane.settings.max_batch_size} at once"
    if lane.kind is EngineKind.TRANSFORMERS:
        return "continuous batching" if lane.settings.continuous_batching else "one at a time"
    return None


def _prefix_cache(lane: LaneSpec) -> str | None:
    if not lane.is_local:
        return None
    return "on" if lane.settings.enable_prefix_caching else "off"
