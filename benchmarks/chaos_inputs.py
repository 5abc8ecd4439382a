"""Malformed inputs by the thousand: streams, bodies of errors, images, imports, lanes files, Markdown.

Each input is made of a good one by random damage, and goes through the code that reads it in earnest. What
may come out is a result or an LMDynoError, which is one clear message. Whatever else is raised is counted as
an exception, with the input's number: the same seed makes the same inputs again. Markdown goes on into a
browser (`benchmarks/chaos_markdown.py`), which must not ask another server for anything.
"""

import io
import json
import random
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from core.bench.results.result import results as bench_results
from core.chat_api.answer import Answer
from core.chat_api.client import failure_in
from core.chat_api.failures import failure
from core.chat_api.lenient import refused
from core.chat_api.stream import EventSplitter, EventTooLarge
from core.config import load_lanes
from core.domain.sessions import SessionRecord
from core.domain.specs import Dialect, Endpoint
from core.errors import LMDynoError
from core.images.sanitise import Limits, sanitise
from core.quality.results import results as quality_results
from core.reports import run_json
from core.reports.exported_file import read_session
from core.reports.run_json import import_run
from core.sessions.exports import session_json
from core.settings import PROJECT_ROOT, Settings
from core.store.runs import BenchRuns, QualityRuns
from core.ui.shared.markdown import FORMULAS, BlockSplitter, parse, split_blocks, streamlit_markdown
from tests.e2e.markdown_spellings import AROUND, FETCHES, FOREIGN, URL
from tests.scripted_server import MARKDOWN
from tests.unit.bench.bench_samples import A, a_pass, a_plan, a_record, a_request
from tests.unit.images.image_files import mutations
from tests.unit.quality import quality_samples
from tests.unit.sessions.session_samples import answers, open_session, plan

SHARES = {
    "streams": 3000,
    "bodies": 2000,
    "images": 2000,
    "imports": 1000,
    "lanes files": 1000,
    "Markdown": 1000,
}
"""How 10,000 inputs are shared out."""

_ENDPOINT = Endpoint(url="http://127.0.0.1:1/v1", model="m", dialect=Dialect.GENERIC)
_TOKENS = tuple(
    token.encode("utf-8", "surrogatepass")
    for token in (
        *(
            "\x00",
            "\ufeff",
            "\u2028",
            "\ud83d",
            "😀",
            "\r",
            "\n\n",
            "data:",
            "data: [DONE]\n\n",
            "event: error\n",
        ),
        *("null", "NaN", "-1", "1e999", "9" * 400, "[" * 200, "{" * 200, '"', "\\", "\\ud83d", "true", "[]"),
        *(
            "![x](http://127.0.0.1:9/y)",
            "<img src=x>",
            "```",
            "$$",
            "|" * 50,
            "[a]: http://x",
            "\t",
            "> " * 60,
        ),
        *("= 1", "[lanes.", "[[", "'''", "id", "../../../x", "=cmd|", "2026-13-45T99:00:00Z", "0001-01-01"),
    )
)


@dataclass
class Outcome:
    """What came of the inputs of one kind."""

    inputs: int = 0
    taken: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    exceptions: list[str] = field(default_factory=list)
    lost_chars: int = 0
    """Of streams: characters that were handed to the page and are missing from the record."""
    foreign: list[str] = field(default_factory=list)
    """Of Markdown: what a browser asked of other servers, and images and raw HTML that a CommonMark parser
    finds in what is sent to it."""


def damaged(good: bytes, chance: random.Random) -> bytes:
    """The input with one to eight pieces of random damage."""
    data = bytearray(good)
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        at = chance.randrange(len(data) + 1)
        length = chance.choice((1, 1, 4, 40))
        match chance.randrange(7):
            case 0:
                data[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = chance.choice(_TOKENS)
            case 3:
                data[at : at + length] = chance.choice(_TOKENS)
            case 4:
                data[at:at] = data[max(0, at - length * 10) : at]
            case 5:
                del data[at:]
            case 6:
                data[at:at] = bytes(chance.randrange(256) for _ in range(length))
    return bytes(data)


@cache
def _good_streams() -> tuple[bytes, ...]:
    def event(delta: object, **more: object) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": more.pop("finish_reason", None)}
        return b"data: " + json.dumps({"id": "1", "choices": [choice], **more}).encode() + b"\n\n"

    words = [event({"content": f"word{place} "}) for place in range(12)]
    usage = {"usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}}
    end = [event({}, finish_reason="stop", **usage), b"data: [DONE]\n\n"]
    thoughts = [event({"reasoning_content": f"hm{place} "}) for place in range(4)]
    tool = [event({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]})]
    wide = [event({"content": "是的😀 " * 3}), b'data: {"choices":[{"delta":{"content":"\\ud83d"}}]}\n\n']
    return (
        b"".join([event({"role": "assistant"}), *words, *end]),
        b"".join([*thoughts, *words, *end]),
        b"".join([*tool, *words[:2], *end]),
        b"".join([*wide, b'data: {"choices":[{"delta":{"content":"\\ude00"}}]}\n\n', *end]),
        b": ping\n\n" + b"".join(words[:3]) + b'data: {"error": {"message": "CUDA out of memory"}}\n\n',
        b"".join(words).replace(b"\n\n", b"\r\n\r\n") + b"".join(end),
    )


def _stream(number: int, chance: random.Random, outcome: Outcome) -> None:
    data = damaged(chance.choice(_good_streams()), chance)
    answer, splitter, shown = Answer(chance.choice(list(Dialect))), EventSplitter(), []
    answer._sent_ns = number  # a clock needs no event loop
    at = 0
    try:
        while at < len(data) and not answer.over:
            size = chance.choice((1, 3, 17, 200, 4096))
            answer.add(number + at, splitter.feed(data[at : at + size]))
            shown.append(answer.take_text())
            at += size
        answer.add(number + at, splitter.close())
    except EventTooLarge:
        answer.is_too_large = True
    answer.stray = bytes(splitter.stray)
    answer.end()
    shown.append(answer.take_text())
    for seen, kept in (
        ("".join(text.content for text in shown), answer.text),
        ("".join(text.reasoning for text in shown), answer.reasoning),
    ):
        # The end may add half a character that waited for its other half.
        outcome.lost_chars += 0 if kept.startswith(seen) else abs(len(seen) - len(kept)) or 1
    timing = answer.timing()
    assert timing is not None
    assert sum(timing.content_chars) == len(answer.text)
    assert timing.tpot_s is None or timing.tpot_s >= 0
    if error := failure_in(answer, _ENDPOINT):
        raise error


_BODIES = (
    b'{"error": {"message": "Rate limit reached", "type": "requests", "code": "rate_limit_exceeded"}}',
    b'{"detail": [{"loc": ["body", "max_tokens"], "msg": "must be at most 4096", "type": "value_error"}]}',
    b'[{"error": {"code": 400, "message": "API key not valid", "status": "INVALID_ARGUMENT"}}]',
    b'{"object": "error", "message": "maximum context length is 2048 tokens", "code": 40303}',
    b"<!DOCTYPE html><html><head><title>502</title></head><body><h1>Bad Gateway</h1></body></html>",
    b'{"code": 1302, "message": "\xe8\xaf\xb7\xe6\xb1\x82", "success": false}',
)


def _body(_number: int, chance: random.Random, _outcome: Outcome) -> None:
    data = damaged(chance.choice(_BODIES), chance)
    status = chance.choice((400, 401, 402, 403, 404, 408, 413, 422, 429, 500, 502, 503, 529, 599, 600))
    after = chance.choice((None, "", "7", "-1", "soon", "Wed, 21 Oct 2026 07:28:00 GMT", "9" * 99))
    raise failure(refused(status, data, after), _ENDPOINT)


class _Images:
    def __init__(self, seed: int) -> None:
        self._made = enumerate(mutations(seed))

    def __call__(self, number: int, _chance: random.Random, _outcome: Outcome) -> None:
        data = next(data for place, (_name, data) in self._made if place == number)
        sanitise(data, limits=Limits(max_pixels=200_000))


@cache
def _good_imports() -> tuple[bytes, ...]:
    run = a_record(a_plan(A), [a_pass(0, ("a",))], [a_request(number) for number in range(4)])
    asked = quality_samples.record()
    of = plan(prompts=3)
    session = SessionRecord(session=open_session(of), answers=answers(of))
    return (
        run_json.bench_to_json(bench_results(run), run, raw=True),
        run_json.quality_to_json(quality_results(asked), asked, raw=True),
        session_json(session, names=True),
    )


class _Imports:
    def __init__(self, folder: Path) -> None:
        url = f"sqlite:///{folder / 'imports.db'}"
        self._stores = BenchRuns(url), QualityRuns(url)

    def __call__(self, _number: int, chance: random.Random, _outcome: Outcome) -> None:
        kinds = range(len(_good_imports()))
        kind = chance.choice(kinds)
        data = damaged(_good_imports()[kind], chance)
        if kind == 2:
            read_session(io.BytesIO(data))
        else:
            import_run(io.BytesIO(data), *self._stores)

    def close(self) -> None:
        for store in self._stores:
            store.close()


class _LanesFiles:
    def __init__(self, folder: Path) -> None:
        self._good = (PROJECT_ROOT / "lanes.example.toml").read_bytes()
        self._settings = Settings(home=folder, lanes_file=folder / "lanes.toml", database_url="sqlite://")

    def __call__(self, _number: int, chance: random.Random, _outcome: Outcome) -> None:
        lines = self._good.splitlines(keepends=True)
        start = chance.randrange(len(lines))
        part = b"".join(lines[start : start + chance.choice((5, 20, 200))])
        self._settings.lanes_file.write_bytes(damaged(chance.choice((self._good, part)), chance))
        load_lanes(self._settings, gpu=chance.random() < 0.5)


_FETCHING = ("image", "html_block", "html_inline")
_BROWSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def damaged_markdown(number: int, seed: int) -> str:
    """An ordinary answer, or some spelling of something foreign in one or two others, with damage."""
    chance = random.Random(f"{seed} Markdown {number}")
    good = MARKDOWN + "\n![x](URL) \\![y](z) `` ![q](u) ` ``\n\n> - [a][b]\n\n[b]: http://c\n"
    if chance.random() < 0.8:
        good = chance.choice(FETCHES)
        for _ in range(chance.choice((1, 1, 2))):
            good = chance.choice(AROUND).replace("X", good)
    good = good.replace("URL", URL).replace("HOST", FOREIGN).replace("NUMBER", str(number))
    return damaged(good.encode(), chance).decode("utf-8", "replace")


def _markdown(text: str, outcome: Outcome) -> None:
    growing = BlockSplitter()
    for at in range(0, len(text), 37):
        growing.append(text[at : at + 37])
        growing.take_finished()
    blocks, references = split_blocks(text)
    for block in blocks:
        written = streamlit_markdown(block, references)
        own = _kinds(parse(written))
        # What stands in a formula is none of Markdown, which the plain parser doesn't know.
        found = own if FORMULAS & set(own) else _kinds(_BROWSER.parse(written))
        outcome.foreign += [f"{kind} in {written[:100]!r}" for kind in found if kind in _FETCHING]


def _kinds(tokens: Sequence[Token]) -> list[str]:
    return [
        kind for token in tokens for kind in (token.type, *(child.type for child in token.children or ()))
    ]


def attempts(kind: str, numbers: Iterable[int], seed: int) -> Iterator[tuple[int, Outcome]]:
    """Put malformed inputs of that kind through the code that reads them; what came of each."""
    with tempfile.TemporaryDirectory(prefix="lmdyno-chaos-") as name:
        folder = Path(name)
        with closing(_Imports(folder)) as imports:
            readers: dict[str, Callable[[int, random.Random, Outcome], None]] = {
                "streams": _stream,
                "bodies": _body,
                "images": _Images(seed),
                "imports": imports,
                "lanes files": _LanesFiles(folder),
                "Markdown": lambda number, _chance, outcome: _markdown(
                    damaged_markdown(number, seed), outcome
                ),
            }
            read = readers[kind]
            for number in numbers:
                outcome = Outcome(inputs=1)
                try:
                    read(number, random.Random(f"{seed} {kind} {number}"), outcome)
                    outcome.taken += 1
                except LMDynoError as error:
                    outcome.refused[error.code] += 1
                except Exception:  # noqa: BLE001 - what is counted here
                    outcome.exceptions.append(f"{kind} {number}: {traceback.format_exc(limit=-4)}")
                yield number, outcome
