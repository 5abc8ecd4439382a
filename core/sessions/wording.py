"""Names of the states, modes, verdicts and reasons of sessions, for pages and reports."""

from enum import StrEnum

from core.domain.sessions import ControlKind, Display, SessionState, Verdict, VotingMode
from core.i18n import N_, Message


class Reason(StrEnum):
    """Why one answer is preferred, to tick beside a vote."""

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
