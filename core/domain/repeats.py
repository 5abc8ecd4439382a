"""Several runs of one prompt with the same settings: what a single run can't say, the spread."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from core.domain.turns import FinishReason, RequestRecord, TurnRecord


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
