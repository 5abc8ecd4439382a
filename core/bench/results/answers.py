"""What must be known of a lane's answers before their figures are compared: empty, cut, of another length."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from core.bench.planning.plan import Workload
from core.domain.bench import BenchRequest
from core.domain.turns import FinishReason
from core.i18n import N_, Message


class _Finding(NamedTuple):
    text: Message
    requests: int
    """That it is true of."""
    lengths: str = ""
    asked: str = ""


def answer_notes(requests: Sequence[BenchRequest], workload: Workload) -> tuple[Message, ...]:
    """Notes on the answered requests of a lane at a load."""
    answered = [request for request in requests if request.ok]
    return tuple(
        found.text.filled(n=found.requests, all=len(answered), lengths=found.lengths, asked=found.asked)
        for found in (*_ends(answered), *_lengths(answered, workload))
        if found.requests
    )


def _ends(answered: Sequence[BenchRequest]) -> Iterator[_Finding]:
    yield _Finding(
        N_("{n} of {all} answers have no text; they make requests/s look better than it is."),
        sum(not request.has_text for request in answered),
    )
    for reason, text in (
        (None, N_("{n} of {all} answers ended without a reason, so they may be cut short.")),
        (FinishReason.CONTENT_FILTER, N_("{n} of {all} answers were cut by the server's content filter.")),
        (FinishReason.TOOL_CALLS, N_("{n} of {all} answers ended with a tool call.")),
    ):
        yield _Finding(text, sum(request.finish_reason is reason for request in answered))


def _lengths(answered: Sequence[BenchRequest], workload: Workload) -> Iterator[_Finding]:
    timings = [request.timing for request in answered if request.timing]
    lengths = [timing.output_tokens for timing in timings if timing.output_tokens is not None]
    asked = workload.output_tokens
    if workload.fixed_output:
        wrong = [length for length in lengths if length != asked]
        text = N_("{n} of {all} answers are {lengths} tokens long instead of {asked}.")
    else:
        wrong = [length for length in lengths if length > asked]
        text = N_("{n} of {all} answers are {lengths} tokens long, though at most {asked} were asked for.")
    yield _Finding(text, len(wrong), _range(wrong), f"{asked:,}")
    yield _Finding(
        N_("{n} of {all} answers came in one burst; their decode speed is unknown."),
        sum(timing.is_burst for timing in timings),
    )
    yield _Finding(N_("The server counted no tokens for {n} of {all} answers."), len(answered) - len(lengths))


def _range(lengths: Sequence[int]) -> str:
    if not lengths:
        return ""
    low, high = min(lengths), max(lengths)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"
