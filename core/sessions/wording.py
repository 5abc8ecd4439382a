"""Names of the states, modes, verdicts and reasons of sessions, and what was measured of each lane, for pages
and reports.

A lane's figures are medians over its answers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from core.bench.statistics import median_of_known
from core.domain.sessions import (
    ControlKind,
    Display,
    Session,
    SessionAnswer,
    SessionState,
    Verdict,
    VotingMode,
)
from core.domain.turns import FinishReason, RequestRecord
from core.i18n import N_, Message


class Reason(StrEnum):
    """A reason to prefer an answer, to tick beside a vote."""

    CORRECT = "correct"
    COMPLETE = "complete"
    CLEAR = "clear"
    INSTRUCTIONS = "instructions"
    STYLE = "style"
    SAFE = "safe"


REASON_NAMES: dict[str, Message] = {
    Reason.CORRECT: N_("More correct"),
    Reason.COMPLETE: N_("More complete"),
    Reason.CLEAR: N_("Clearer"),
    Reason.INSTRUCTIONS: N_("Follows the instructions better"),
    Reason.STYLE: N_("Better style"),
    Reason.SAFE: N_("Safer"),
}
STATE_NAMES = {
    SessionState.DRAFT: N_("being prepared"),
    SessionState.OPEN: N_("open"),
    SessionState.CLOSED: N_("closed"),
}
MODE_NAMES = {VotingMode.PAIRWISE: N_("Two answers"), VotingMode.RANKING: N_("Up to four in order")}
DISPLAY_NAMES = {Display.AT_ONCE: N_("At once"), Display.REPLAYED: N_("Replayed at one pace")}
CONTROL_NAMES = {
    ControlKind.TWO_SAMPLES: N_("Two answers from one lane"),
    ControlKind.IDENTICAL: N_("The same answer twice"),
}
VERDICT_NAMES = {
    Verdict.PREFERRED: N_("Preferred one"),
    Verdict.TIE: N_("Tie"),
    Verdict.ALL_BAD: N_("All bad"),
    Verdict.SKIPPED: N_("Skipped"),
}
LETTERS = "ABCD"
"""What answers are called while nobody may know whose they are."""


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
