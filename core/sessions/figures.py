"""What was measured of each lane while the answers were made: medians over its answers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from core.bench.statistics import median_of_known
from core.domain.sessions import Session, SessionAnswer
from core.domain.turns import FinishReason, RequestRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneFigures:
    """One lane's speed, memory and energy; None where nothing tells them."""

    lane: int
    answers: int
    failed: int
    ttft_s: float | None
    decode_tok_per_s: float | None
    e2e_s: float | None
    output_tokens: float | None
    peak_memory_bytes: int | None
    """The engine's own GPU memory, or its host memory where it uses no GPU: the largest of all answers."""
    on_gpu: bool
    """Whether that is GPU memory."""
    energy_j_per_token: float | None


def lane_figures(session: Session, answers: Iterable[SessionAnswer]) -> tuple[LaneFigures, ...]:
    """Figures of all lanes, in the session's order."""
    by_lane: list[list[RequestRecord]] = [[] for _ in session.plan.lanes]
    for answer in answers:
        by_lane[answer.lane].append(answer.record)
    return tuple(_figures(lane, records) for lane, records in enumerate(by_lane))


def has_failed(record: RequestRecord) -> bool:
    return record.error is not None or record.finish_reason in (FinishReason.ERROR, FinishReason.CANCELLED)


def _figures(lane: int, records: Sequence[RequestRecord]) -> LaneFigures:
    good = [record for record in records if not has_failed(record)]
    windows = [record.window for record in good if record.window]
    gpu = [window.peak_gpu_bytes for window in windows if window.peak_gpu_bytes is not None]
    host = [window.peak_resident_bytes for window in windows if window.peak_resident_bytes is not None]
    return LaneFigures(
        lane=lane,
        answers=len(good),
        failed=len(records) - len(good),
        ttft_s=median_of_known(record.ttft_s for record in good),
        decode_tok_per_s=median_of_known(record.decode_tok_per_s for record in good),
        e2e_s=median_of_known(record.e2e_s for record in good),
        output_tokens=median_of_known(record.output_tokens for record in good),
        peak_memory_bytes=max(gpu or host, default=None),
        on_gpu=bool(gpu),
        energy_j_per_token=median_of_known(record.energy_j_per_token for record in good),
    )
