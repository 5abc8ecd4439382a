"""Find out why an engine ended, from its log and its exit code. Works on text alone."""

import re
import signal
from collections.abc import Sequence

from core.engines.log.causes import CAUSES, CUDA_ERROR, FALLBACK, Cause
from core.engines.log.file import lines_of
from core.errors import EngineCrashed, EngineError, EngineLoadFailed, EngineOutOfMemory
from core.i18n import N_, Message


def recognise(log: str) -> EngineError | None:
    """The failure that a log shows; None for a log without any text of the table."""
    return wrong_backend(log) or _first_cause(log)


def _first_cause(log: str) -> EngineError | None:
    for cause in CAUSES:
        if found := re.search(cause.pattern, log, re.MULTILINE):
            return _error(cause, found)
    return None


def _error(cause: Cause, match: re.Match[str]) -> EngineError:
    # A group's name may stand only once in a pattern, so what, what2 and so on mean the same.
    words = {name.rstrip("2345"): text for name, text in match.groupdict().items() if text}
    return cause.error(cause.message.filled(**{"what": "?", **words}), hint=cause.hint, code=cause.code)


def wrong_backend(log: str) -> EngineError | None:
    """LMDeploy's own word that it runs another engine than it was asked for; it goes on all the same."""
    match = re.search(FALLBACK.pattern, log)
    if match is None:
        return None
    error = _error(FALLBACK, match)
    if reason := _first_cause(match["why"]):
        error.hint = reason.hint
    return error


def unpacked_gguf(log: str) -> bool:
    """Whether transformers turned a GGUF file's blocks into plain weights while loading.

    It does so for most architectures: they then compute, and take memory, like an unquantised checkpoint.
    """
    return "de-quantizing GGUF tensors" in log or "Dequantizing the whole model" in log


def explain_failed_start(log: str, exit_code: int | None) -> EngineError:
    """Return why an engine ended before it was healthy; exit codes are Popen's (negative: a
    signal's number).
    """
    if cause := recognise(log):
        return cause
    if (death := _killed(exit_code)) is not None:
        return death
    return EngineLoadFailed(
        N_(
            "The engine ended before it was ready ({exit}). Its log ends with: {line}",
            exit=_exit_words(exit_code),
            line=line,
        )
        if (line := _last_line(log))
        else N_("The engine ended before it was ready ({exit}).", exit=_exit_words(exit_code)),
        hint=N_("See its log for details."),
    )


def explain_death(log: str, exit_code: int | None) -> EngineError:
    """Return why an engine that was healthy is gone; only what its last lines say counts."""
    recent = "\n".join(lines_of(log)[-40:])
    cause = recognise(recent)
    if cause and (isinstance(cause, EngineOutOfMemory) or cause.code == CUDA_ERROR):
        return cause
    if (death := _killed(exit_code)) is not None:
        return death
    return EngineCrashed(
        N_(
            "The engine crashed ({exit}). Its log ends with: {line}",
            exit=_exit_words(exit_code),
            line=line,
        )
        if (line := _last_line(log))
        else N_("The engine crashed ({exit}).", exit=_exit_words(exit_code)),
        hint=N_("Start it again. See its log for details."),
        code="engine-died",
    )


def _killed(exit_code: int | None) -> EngineError | None:
    if exit_code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return EngineCrashed(
            N_("The engine was killed (SIGKILL), probably because the system ran out of memory."),
            hint=N_(
                "Check the system's log for the out-of-memory killer. If it ended the engine, choose a "
                "smaller "
                "model or stop another engine. Otherwise, start it again."
            ),
            code="engine-killed",
        )
    return None


def _exit_words(exit_code: int | None) -> Message:
    if exit_code is None:
        return N_("exit code unknown")
    if exit_code < 0:
        return N_("signal {name}", name=signal.Signals(-exit_code).name)
    return N_("exit code {code}", code=exit_code)


def _last_line(log: str) -> str | None:
    lines = telling_lines(log, 1)
    return lines[0] if lines else None


_TELLING = re.compile(
    r"^\w*(?:Error|Exception|Exit)\b|^[\w.]+(?:Error|Exception): |\b(?:ERROR|FATAL|CRITICAL)\b|error:|Error:"
    r"|Fallback to|Aborted|Segmentation fault|Killed|Check failed"
)
_NOISE = re.compile(
    r"^\s+|^Traceback \(most recent|\d+%\|"
    # TurboMind warms up for more tokens than a short session_len holds, says so, and works.
    r"|Warm-up for \d+ tokens failed with status 6"
)


def telling_lines(log: str, count: int = 3) -> Sequence[str]:
    """The last lines that tell why: errors if there are any, else the very last; 300 characters of each."""
    lines = [line for line in lines_of(log) if not _NOISE.search(line)]
    telling = [line for line in lines if _TELLING.search(line)]
    return [line[:300] for line in (telling or lines)[-count:]]
