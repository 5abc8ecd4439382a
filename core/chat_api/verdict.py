"""Whether a request succeeded: the one place that decides it, for the chat, load tests and everything
else."""

from core.chat_api import connection_errors
from core.chat_api.answer import Answer
from core.chat_api.refusals import failure, see_log
from core.domain.specs import Endpoint
from core.domain.turns import FinishReason
from core.errors import EngineError, LMDynoError
from core.i18n import N_


def problem(answer: Answer, endpoint: Endpoint, lost: LMDynoError | None = None) -> LMDynoError | None:
    """Why the request whose stream has ended failed; None if it was answered.

    `lost` is what became of its connection, which doesn't matter once the answer is complete. An answer is
    one if the server ended it, in events that could be understood, and not with an error; without a finish
    reason it must also hold something.
    """
    if answer.error:
        return failure(answer.error, endpoint)
    if answer.is_too_large:
        return connection_errors.too_much(endpoint)
    if answer.finish_reason is FinishReason.ERROR:
        return _given_up(answer.finish_word, endpoint)
    if not answer.complete:
        if answer.strange:
            return connection_errors.bad_stream(answer.strange)
        if lost:
            return lost
        if answer.stray:
            return connection_errors.not_a_stream(endpoint, answer.stray)
        return connection_errors.broken_off(endpoint)
    if answer.strange:
        return connection_errors.bad_stream(answer.strange)
    if answer.finish_reason is None and not (answer.has_text or answer.calls_tool):
        return connection_errors.empty_answer(endpoint)
    return None


def _given_up(word: str, endpoint: Endpoint) -> LMDynoError:
    return EngineError(
        N_("The engine aborted the answer: {word}", word=word),
        hint=see_log(endpoint),
        code="engine-gave-up",
    )
