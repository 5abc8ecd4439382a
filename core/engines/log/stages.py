"""How far an engine's start-up has come, by the lines of its log."""

import re

from core.engines.log.file import lines_of
from core.i18n import N_, Message, Text

_PERCENT = r"[^|]*?(?P<percent>\d+)%\|"
STARTING = N_("Starting")

_STAGES: tuple[tuple[re.Pattern[str], Message], ...] = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r"Uvicorn running on|Application startup complete", N_("Almost ready")),
        (r"HINT: +Please open|Started server process", N_("Opening the port")),
        (r"Warm-up finished", N_("Warmed up")),
        (r"Warm-up (?:lengths|for)", N_("Warming up")),
        (r"Object cache budget: (?P<what>[\d.]+ MB)", N_("Reserving the KV cache, {what}")),
        (rf"Converting and de-quantizing GGUF tensors{_PERCENT}", N_("Unpacking weights, {percent}%")),
        (
            rf"^(?:Loading weights from safetensors|Loading weights|Loading){_PERCENT}",
            N_("Loading weights, {percent}%"),
        ),
        (rf"Loading checkpoint shards{_PERCENT}", N_("Loading weights, {percent}%")),
        (r"^\[transformers\] Loading ", N_("Reading the model")),
    )
)


def stage_of(line: str) -> Text | None:
    """The stage that a log line shows, in words for people; None if it shows none."""
    for pattern, words in _STAGES:
        if found := pattern.search(line):
            return words.filled(**found.groupdict())
    return None


def last_stage(log: str) -> Text | None:
    """The stage shown by the newest line of a log that shows one."""
    for line in reversed(lines_of(log)):
        if stage := stage_of(line):
            return stage
    return None
