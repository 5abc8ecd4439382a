"""Exported files as they come in: read in pieces, bounded in size and depth, and checked beyond their form.

A file may come from anybody and be as large as a long load test. Its one long list is never in memory as a
whole: a scanner that knows strings and brackets cuts it into entries, which are parsed one by one. The checks
see to ids, ranges, and that the parts of a run or of a session belong together.
"""

import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, BinaryIO, TypeVar

from core.codec import decode
from core.config.lanes import LANE_NAME
from core.domain.runs import BenchPass, BenchRequest, QualityAnswer, RunFacts
from core.domain.sessions import Session, SessionAnswer, SessionRecord, SessionState, Verdict
from core.domain.specs import LaneSpec
from core.domain.timing import Timing
from core.errors import InputError
from core.i18n import N_, Text
from core.units import gib

T = TypeVar("T")

MAX_BYTES = 200 * 2**20
_MAX_HEAD_BYTES = 16 * 2**20
_MAX_DEPTH = 64
_MAX_WHOLE = 2**63 - 1
_CHUNK_BYTES = 2**20
_STRING = rb'"[^"\\]*(?:\\.[^"\\]*)*"'
_TOKEN = re.compile(_STRING + rb'|["\[\]{}:,]', re.DOTALL)
"""A lone quotation mark is the beginning of a string whose end is not read yet."""
_INSIDE = re.compile(_STRING + rb'|["\[\]{}]', re.DOTALL)
"""The same without what is between the numbers of an entry, of which there are millions."""
_BETWEEN = re.compile(rb"[\s,]*")
_HINT = N_("Use a JSON file that was exported here or with `lmdyno runs export`.")


class ExportedFile:
    """A JSON document with one long list of objects, such as a load test's requests.

    Reading raises InputError: `import-too-large`, or `bad-record` for what is no such document.
    """

    def __init__(self, file: BinaryIO, long_lists: Collection[tuple[str, ...]], *, what: str) -> None:
        """`long_lists` are the keys that lead to the list, or to either of several; `what` begins errors."""
        self._file = file
        self._lists = {tuple(json.dumps(key).encode() for key in keys) for keys in long_lists}
        self._what = what
        size = file.seek(0, 2)
        if size > MAX_BYTES:
            raise self._too_large(N_("The file is too large to import ({size}).", size=gib(size)))

    def head(self) -> bytes:
        """The document as JSON, with the long list empty; every number in it is one that fits."""
        kept = bytearray()
        for is_entry, piece in self._pieces():
            if not is_entry:
                kept += piece
                if len(kept) > _MAX_HEAD_BYTES:
                    raise self._too_large(N_("The file has too much data besides its list of requests."))
        try:
            json.loads(kept, parse_int=self._whole, parse_float=self._finite, parse_constant=self._finite)
        except (ValueError, RecursionError) as exc:
            raise self._bad(str(exc)[:120], in_document=True) from exc
        return bytes(kept)

    def entries(self) -> Iterator[bytes]:
        """The entries of the long list as JSON, one by one."""
        for is_entry, piece in self._pieces():
            if is_entry:
                yield piece

    def _pieces(self) -> Iterator[tuple[bool, bytes]]:
        """The document in order: parts outside of the long list, and its entries, each in one piece."""
        self._file.seek(0)
        window = _Window(self._file)
        path = _Path(self._lists)
        try:
            while token := window.next(_TOKEN):
                opens_list = path.follow(token)
                if opens_list or window.pending_bytes > _CHUNK_BYTES:
                    yield False, window.take()
                while opens_list and (entry := self._entry(window)) is not None:
                    yield True, entry
            if path.depth:
                raise ValueError("it ends too early")
        except ValueError as exc:
            raise self._bad(str(exc), in_document=True) from exc
        yield False, window.take()

    def _entry(self, window: "_Window") -> bytes | None:
        """The next entry of the list; None at its end, which is left to be read."""
        if window.skip(_BETWEEN) == b"]":
            return None
        depth = 0
        while token := window.next(_INSIDE):
            depth += (token in b"[{") - (token in b"]}")
            if depth > _MAX_DEPTH or window.pending_bytes > _MAX_HEAD_BYTES:
                raise ValueError("an entry is too deep or too long")
            if depth <= 0:
                break
        entry = window.take()
        if depth or not (entry.startswith(b"{") and entry.endswith(b"}")):
            raise ValueError("the list holds something else than objects")
        return entry

    def _whole(self, text: str) -> int:
        number = int(text) if len(text) < 25 else _MAX_WHOLE + 1
        if abs(number) > _MAX_WHOLE:
            raise self._bad("a number is out of range")
        return number

    def _finite(self, text: str) -> float:
        if not math.isfinite(number := float(text)):
            raise self._bad("a number is out of range")
        return number

    def _bad(self, problem: str, *, in_document: bool = False) -> InputError:
        return InputError(
            N_("{record}: {place}: {problem}", record=self._what, place=N_("the document"), problem=problem)
            if in_document
            else N_("{file}: {problem}", file=self._what, problem=problem),
            hint=_HINT,
            code="bad-record",
        )

    def _too_large(self, message: str) -> InputError:
        return InputError(message, hint=N_("Export a run with fewer requests."), code="import-too-large")


class _Path:
    """A reader's place in a document, from brackets, keys and colons."""

    def __init__(self, sought: Collection[tuple[bytes, ...]]) -> None:
        self._sought = sought
        self._open: list[bytes] = []
        self._keys: list[bytes] = []
        """The key that each open bracket is in; b"" for an entry of a list."""
        self._last = b""

    @property
    def depth(self) -> int:
        return len(self._open)

    def follow(self, token: bytes) -> bool:
        """Take the next token; True when it opens the list that is sought. Raises ValueError."""
        if token in (b"{", b"["):
            self._open.append(token)
            self._keys.append(self._last)
            self._last = b""
            if len(self._open) > _MAX_DEPTH:
                raise ValueError("it is nested too deeply")
            return token == b"[" and tuple(self._keys[1:]) in self._sought
        if token in (b"}", b"]"):
            if not self._open or self._open.pop() + token not in (b"{}", b"[]"):
                raise ValueError("its brackets don't match")
            self._keys.pop()
            self._last = b""
        elif token == b",":
            self._last = b""
        elif token != b":":
            self._last = token
        return False


class _Window:
    """A file through a buffer that holds what was read and not taken yet."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._buffer = b""
        self._start = 0
        self._at = 0
        """What lies from start to here was given as tokens, and can be taken."""
        self._read_until = 0
        """Where the last piece that was read begins in the buffer."""

    @property
    def pending_bytes(self) -> int:
        return self._at - self._start

    def next(self, pattern: re.Pattern[bytes]) -> bytes:
        """The next token; b"" at the end. Raises ValueError for a text without an end."""
        while True:
            match = pattern.search(self._buffer, self._at)
            if match and match[0] != b'"':
                self._at = match.end()
                return match[0]
            begins = match.start() if match else len(self._buffer)
            left = len(self._buffer) - begins
            if not self._read_more():
                if match:
                    raise ValueError("a text has no end")
                self._at = len(self._buffer)
                return b""
            self._at = max(self._at, self._read_until - left)

    def skip(self, pattern: re.Pattern[bytes]) -> bytes:
        """Leave out what the pattern matches here, and return the byte after it.

        Call it when everything before was taken.
        """
        while True:
            match = pattern.match(self._buffer, self._start)
            self._start = self._at = match.end() if match else self._start
            if self._start < len(self._buffer) or not self._read_more():
                return self._buffer[self._start : self._start + 1]

    def take(self) -> bytes:
        """Everything up to the last token, which is given once."""
        taken = self._buffer[self._start : self._at]
        self._start = self._at
        return taken

    def _read_more(self) -> bool:
        """Read as much again as is waiting, so that a long text is looked through few times only."""
        waiting = self._buffer[self._start :]
        more = self._file.read(max(_CHUNK_BYTES, len(waiting)))
        self._at -= self._start
        self._start = 0
        self._read_until = len(waiting)
        self._buffer = waiting + more
        return bool(more)


_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_TEXT_CHARS = {"title": 1000, "note": 20_000, "tag": 200, "lmdyno": 100}
_MAX_LANES = 64
_MAX_PASSES = 100_000
_MAX_REQUESTS = 10**8
_MAX_TOKENS = 10**9
_MAX_NS = 2**62
_SESSION_SCHEMA_VERSION = 1
_SESSION_ID = re.compile(r"[0-9a-z]{6,40}")
_NOT_A_SESSION = N_("This isn't the JSON file of a session.")
_MAX_ANSWER_CHARS = 4 * 2**20
_MAX_NAME_CHARS = 1000
_MAX_PEOPLE = 10_000
_MAX_VOTES = 1_000_000
_RENAMED_KEYS = (
    (b"pictures", b"images"),
    (b"pictures_per_request", b"images_per_request"),
    (b"vary_pictures", b"vary_images"),
    (b"picture_tokens", b"image_tokens"),
    (b"sharing", b"isolation"),
)


def check_schema(version: int, supported: int) -> None:
    """Raises InputError (`newer-schema`) for a document of a later version."""
    if version > supported:
        raise InputError(
            N_(
                "A newer version of LMDyno exported this run (schema {version}, this version supports "
                "{known}).",
                version=version,
                known=supported,
            ),
            hint=N_("Update LMDyno."),
            code="newer-schema",
        )


def with_new_keys(data: bytes) -> bytes:
    """The document of a benchmark run of schema 1, with the keys that schema 2 renamed."""
    # Inside a JSON string a quote has a backslash before it, so only keys match.
    for old, new in _RENAMED_KEYS:
        data = re.sub(rb'"%s"(?=\s*:)' % old, b'"%s"' % new, data)
    return data


def read_as(kind: type[T], data: bytes, *, what: Text) -> T:
    """A part of a document; `what` begins errors. Raises InputError (`bad-record`)."""
    try:
        return decode(kind, data, otherwise=what)
    except InputError as error:
        raise InputError(error.message, hint=_HINT, code=error.code) from error


def check_head(run: RunFacts, lanes: Sequence[LaneSpec]) -> None:
    """Raises InputError (`bad-record`) for a run whose own fields can't be."""
    _require(_ID.fullmatch(run.id) is not None, "id", "is no id of a run")
    for name, moment in (("created_at", run.created_at), ("finished_at", run.finished_at)):
        _require(moment is None or moment.tzinfo is not None, name, "has no time zone")
    for name, most in _MAX_TEXT_CHARS.items():
        _require(len(getattr(run, name)) <= most, name, "is too long")
    names = [lane.name for lane in lanes]
    _require(0 < len(names) <= _MAX_LANES, "lanes", "are none, or too many")
    _require(len(set(names)) == len(names), "lanes", "have names that occur twice")
    for name in names:
        _require(LANE_NAME.fullmatch(name) is not None, "lanes", "have a name that is none")


def check_passes(passes: Sequence[BenchPass], lanes: Collection[str]) -> None:
    """Raises InputError (`bad-record`) for passes that can't belong to a run of these lanes."""
    _require(len(passes) <= _MAX_PASSES, "passes", "are too many")
    _require(
        len({bench_pass.number for bench_pass in passes}) == len(passes),
        "passes",
        "have numbers that occur twice",
    )
    for bench_pass in passes:
        place = f"passes.{bench_pass.number}"
        _require(
            0 <= bench_pass.number <= _MAX_REQUESTS and bench_pass.repeat >= 0,
            place,
            "has a number out of range",
        )
        ends = bench_pass.start_ns if bench_pass.end_ns is None else bench_pass.end_ns
        _require(abs(bench_pass.start_ns) <= ends <= _MAX_NS, place, "ends before it starts")
        _require(
            bool(bench_pass.lanes) and set(bench_pass.lanes) <= set(lanes),
            place,
            "has lanes that the run hasn't",
        )
        _require(bench_pass.started_at.tzinfo is not None, place, "has no time zone")
        level = bench_pass.level
        _require((level.concurrency is None) != (level.rate_req_per_s is None), place, "has no load level")
        _require(level.value > 0, place, "has a load level that is not positive")


def checked_requests(requests: Iterable[BenchRequest], passes: Sequence[BenchPass]) -> Iterator[BenchRequest]:
    """The requests, each as soon as it is found to be in order. Raises InputError (`bad-record`)."""
    lanes = {bench_pass.number: bench_pass.lanes for bench_pass in passes}
    seen: set[int] = set()
    for request in requests:
        place = f"requests.{request.number}"
        _require(0 <= request.number <= _MAX_REQUESTS, place, "has a number out of range")
        _require(request.number not in seen, place, "has a number that occurs twice")
        seen.add(request.number)
        _require(request.lane in lanes.get(request.pass_number, ()), place, "belongs to no pass of its lane")
        _require(abs(request.planned_ns or 0) <= _MAX_NS, place, "has a timestamp out of range")
        _check_tokens(place, request.prompt_tokens, request.cached_tokens)
        if request.timing:
            _check_timing(place, request.timing)
        yield request


def checked_answers(answers: Iterable[QualityAnswer], lanes: Collection[str]) -> Iterator[QualityAnswer]:
    """The answers, each as soon as it is found to be in order. Raises InputError (`bad-record`)."""
    seen: set[tuple[object, ...]] = set()
    for answer in answers:
        key = (answer.lane, answer.part, answer.item, answer.repeat)
        place = f"answers.{answer.lane}.{answer.part}.{answer.item}"
        _require(answer.lane in lanes, place, "belongs to no lane of the run")
        _require(0 <= answer.item <= _MAX_REQUESTS and 0 <= answer.repeat <= 1000, place, "is out of range")
        _require(key not in seen, place, "occurs twice")
        seen.add(key)
        _check_tokens(place, answer.prompt_tokens, *(answer.token_ids or ()))
        if answer.timing:
            _check_timing(place, answer.timing)
        yield answer


def read_session(file: BinaryIO) -> SessionRecord:
    """The session in an open file; raises InputError for anything that is not a whole one.

    Its answers, which are most of it, are read one by one. Voting is closed: the link of the other machine
    doesn't lead here.
    """
    exported = ExportedFile(file, [("answers",)], what=_NOT_A_SESSION)
    record = decode(SessionRecord, exported.head(), otherwise=_NOT_A_SESSION)
    check_schema(record.schema_version, _SESSION_SCHEMA_VERSION)
    if problem := _session_problem(record):
        raise _contradiction(problem)
    answers = tuple(_checked_session_answers(exported.entries(), record.session))
    state = SessionState.CLOSED if record.session.items else SessionState.DRAFT
    session = replace(record.session, state=state, link="", imported=True)
    return replace(record, session=session, answers=answers)


def _contradiction(problem: Text) -> InputError:
    return InputError(
        N_("The session's JSON contradicts itself: {problem}", problem=problem),
        hint=N_("Export it again."),
        code="bad-record",
    )


def _checked_session_answers(entries: Iterable[bytes], session: Session) -> Iterator[SessionAnswer]:
    lanes, prompts = range(len(session.plan.lanes)), range(len(session.plan.prompts.prompts))
    seen: set[tuple[int, int, int]] = set()
    for entry in entries:
        answer = decode(SessionAnswer, entry, otherwise=_NOT_A_SESSION)
        key, record = (answer.prompt, answer.lane, answer.sample), answer.record
        is_fine = answer.prompt in prompts and answer.lane in lanes and answer.sample in (0, 1)
        has_moment = record.sent_at is None or record.sent_at.tzinfo is not None
        is_short = len(record.text) + len(record.reasoning) <= _MAX_ANSWER_CHARS
        if key in seen or not (is_fine and has_moment and is_short):
            raise _contradiction(N_("an answer"))
        seen.add(key)
        place = f"answers.{answer.prompt}.{answer.lane}"
        _check_tokens(place, record.prompt_tokens, record.cached_tokens)
        if record.timing:
            _check_timing(place, record.timing)
        yield answer


def _session_problem(record: SessionRecord) -> Text | None:
    session = record.session
    lanes, prompts = range(len(session.plan.lanes)), range(len(session.plan.prompts.prompts))
    people = {person.id for person in record.participants}
    checks = (
        (_SESSION_ID.fullmatch(session.id), N_("the id")),
        (len(session.plan.title) <= _MAX_NAME_CHARS, N_("the title")),
        (
            all(
                moment is None or moment.tzinfo is not None
                for moment in (
                    *(session.created_at, session.opened_at, session.closed_at),
                    *(person.joined_at for person in record.participants),
                    *(vote.given_at for vote in record.votes),
                    *(judgement.given_at for judgement in record.judgements),
                )
            ),
            N_("a time without its zone"),
        ),
        (
            len(record.participants) <= _MAX_PEOPLE
            and len(record.votes) <= _MAX_VOTES
            and len(record.judgements) <= _MAX_VOTES,
            N_("more votes than people can give"),
        ),
        (
            all(
                item.prompt in prompts
                and len(item.candidates) >= 2
                and all(
                    candidate.lane in lanes and candidate.sample in (0, 1) for candidate in item.candidates
                )
                for item in session.items
            ),
            N_("an item"),
        ),
        (
            len(people) == len({p.seat for p in record.participants}) == len(record.participants)
            and all(
                person.session_id == session.id
                and 0 <= person.seat < _MAX_VOTES
                and _ID.fullmatch(person.id) is not None
                and len(person.name) <= _MAX_NAME_CHARS
                for person in record.participants
            ),
            N_("a participant"),
        ),
        (
            len({(vote.participant_id, vote.item) for vote in record.votes}) == len(record.votes),
            N_("two votes of one person on one item"),
        ),
        (
            all(
                vote.participant_id in people
                and _fits(session, vote.item, vote.verdict, vote.order)
                and (vote.deploy is None or _fits(session, vote.item, vote.deploy, vote.deploy_order))
                and sorted(vote.shown) == list(range(len(session.items[vote.item].candidates)))
                for vote in record.votes
            ),
            N_("a vote"),
        ),
        (all(_fits(session, j.item, j.verdict, j.order) for j in record.judgements), N_("a judgement")),
    )
    return next((what for fine, what in checks if not fine), None)


def _fits(session: Session, item: int, verdict: Verdict | None, order: Iterable[int]) -> bool:
    """Whether a verdict can be one on that item."""
    if item not in range(len(session.items)):
        return False
    places = list(range(len(session.items[item].candidates))) if verdict is Verdict.PREFERRED else []
    return sorted(order) == places


def _check_tokens(place: str, *counts: int | None) -> None:
    for count in counts:
        _require(count is None or 0 <= count <= _MAX_TOKENS, place, "has a token count out of range")


def _check_timing(place: str, timing: Timing) -> None:
    """Timestamps in order, and as many lengths as chunks."""
    chunks = timing.chunk_ns
    moments = [timing.sent_ns, *chunks]
    _require(moments == sorted(moments), place, "has timestamps out of order")
    _require(moments[0] >= 0 and moments[-1] <= _MAX_NS, place, "has a timestamp out of range")
    lengths: tuple[tuple[Any, ...], ...] = (timing.content_chars, timing.reasoning_chars)
    _require(
        all(len(chunk_lengths) in (0, len(chunks)) for chunk_lengths in lengths),
        place,
        "has not a length for each chunk",
    )
    _require(len(timing.chunk_tokens or chunks) == len(chunks), place, "has not a token count for each chunk")
    counts = (*timing.content_chars, *timing.reasoning_chars, *(timing.chunk_tokens or ()))
    _check_tokens(place, timing.output_tokens, min(counts, default=None), max(counts, default=None))


def _require(holds: bool, place: str, problem: str) -> None:
    if not holds:
        raise InputError(
            N_("The file can't be imported: {place} {problem}", place=place, problem=problem),
            hint=_HINT,
            code="bad-record",
        )
