"""How far an engine's start-up has come, by the lines of its log."""

import re

from core.engines.log.file import lines_of

_PERCENT = r"[^|]*?(?P<percent>\d+)%\|"
_STAGES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r"Uvicorn running on|Application startup complete", "answering soon"),
        (r"HINT: +Please open|Started server process", "opening its port"),
        (r"Warm-up finished", "warmed up"),
        (r"Warm-up (?:lengths|for)", "warming up"),
        (r"Object cache budget: (?P<what>[\d.]+ MB)", "reserving the KV cache, {what}"),
        (rf"Converting and de-quantizing GGUF tensors{_PERCENT}", "unpacking weights, {percent} %"),
        (
            rf"^(?:Loading weights from safetensors|Loading weights|Loading){_PERCENT}",
            "loading weights, {percent} %",
        ),
        (rf"Loading checkpoint shards{_PERCENT}", "loading weights, {percent} %"),
        (r"^\[transformers\] Loading ", "reading the model"),
    )
)


def stage_of(line: str) -> str | None:
    """What an engine that writes this log line is doing, in words for people; None if it doesn't tell."""
    for pattern, words in _STAGES:
        if found := pattern.search(line):
            return words.format_map(found.groupdict())
    return None


def last_stage(log: str) -> str | None:
    """The stage that the newest telling line of a log stands for."""
    for line in reversed(lines_of(log)):
        if stage := stage_of(line):
            return stage
    return None
