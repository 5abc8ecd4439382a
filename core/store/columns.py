"""Column types that hold domain values as they are, the same in SQLite and PostgreSQL."""

import re
import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import accumulate, pairwise
from typing import Generic, TypeVar

from sqlalchemy import DateTime, Dialect, LargeBinary, Text
from sqlalchemy.types import TypeDecorator

from core import codec
from core.domain.timing import Timing
from core.errors import InputError, StoreError
from core.i18n import N_

T = TypeVar("T")
S = TypeVar("S")
E = TypeVar("E", bound=StrEnum)

_NOT_UTF8 = re.compile("[\ud800-\udfff]")
_NOT_UTF8_OR_NUL = re.compile("[\x00\ud800-\udfff]")
_TIMESTAMPS_V1 = b"\x01"


class UtcDateTime(TypeDecorator[datetime]):
    """An instant to the microsecond; SQLite, which knows no time zones, holds its UTC wall clock."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("an instant needs a time zone")
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)


class FreeText(TypeDecorator[str]):
    """Text from people and models; characters that the database can't hold become U+FFFD, one for one.

    Those are lone surrogates (from a command line that is not UTF-8) and, in PostgreSQL, NUL.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        unfit = _NOT_UTF8_OR_NUL if dialect.name == "postgresql" else _NOT_UTF8
        return unfit.sub("\ufffd", value)


class _Converted(TypeDecorator[T], Generic[T, S], ABC):
    """A type that two functions carry over; NULL is None."""

    @abstractmethod
    def to_stored(self, value: T) -> S: ...

    @abstractmethod
    def to_value(self, stored: S) -> T:
        """The value again; raises StoreError for what no `to_stored` of this version made."""

    def process_bind_param(self, value: T | None, dialect: Dialect) -> S | None:  # noqa: ARG002
        return None if value is None else self.to_stored(value)

    def process_result_value(self, value: S | None, dialect: Dialect) -> T | None:  # noqa: ARG002
        return None if value is None else self.to_value(value)


class Choice(_Converted[E, str]):
    """A member of a closed set, held as its value."""

    impl = Text
    cache_ok = True

    def __init__(self, kind: type[E]) -> None:
        super().__init__()
        self.kind = kind

    def to_stored(self, value: E) -> str:
        return value.value

    def to_value(self, stored: str) -> E:
        try:
            return self.kind(stored)
        except ValueError as exc:
            raise _bad_record(str(exc)) from exc


class Document(_Converted[T, str]):
    """A domain object as JSON text."""

    impl = Text
    cache_ok = True

    def __init__(self, kind: type[T]) -> None:
        super().__init__()
        self.kind = kind

    def to_stored(self, value: T) -> str:
        return codec.encode(value).decode()

    def to_value(self, stored: str) -> T:
        try:
            return codec.decode(self.kind, stored)
        except InputError as exc:
            raise _bad_record(exc.message) from exc


class Timestamps(_Converted[Timing, bytes]):
    """A request's timestamps: one byte with the format's version, then (version 1) zlib-compressed JSON.

    The JSON has `Timing`'s fields, but `first_event_ns` and `ended_ns` counted from `sent_ns`, and in place
    of `chunk_ns` the gaps from each timestamp to the next, the first counted from `sent_ns`.
    """

    impl = LargeBinary
    cache_ok = True

    def to_stored(self, value: Timing) -> bytes:
        return pack(value)

    def to_value(self, stored: bytes) -> Timing:
        return unpack(stored)


@dataclass(frozen=True, slots=True, kw_only=True)
class _TimestampsV1:
    sent_ns: int
    first_event_ns: int | None
    gaps_ns: tuple[int, ...]
    content_chars: tuple[int, ...]
    reasoning_chars: tuple[int, ...]
    chunk_tokens: tuple[int, ...] | None
    output_tokens: int | None
    ended_ns: int | None


def pack(timing: Timing) -> bytes:
    """The timestamps as bytes, about 5 a chunk."""
    sent = timing.sent_ns
    timestamps = _TimestampsV1(
        sent_ns=sent,
        first_event_ns=_shift(timing.first_event_ns, -sent),
        gaps_ns=tuple(later - earlier for earlier, later in pairwise((sent, *timing.chunk_ns))),
        content_chars=timing.content_chars,
        reasoning_chars=timing.reasoning_chars,
        chunk_tokens=timing.chunk_tokens,
        output_tokens=timing.output_tokens,
        ended_ns=_shift(timing.ended_ns, -sent),
    )
    # Level 1: a growing answer is packed again and again, and the gaps' digits hardly compress further.
    return _TIMESTAMPS_V1 + zlib.compress(codec.encode(timestamps), level=1)


def unpack(data: bytes) -> Timing:
    """The timestamps that `pack` made into bytes; raises StoreError for any other bytes."""
    if data[:1] != _TIMESTAMPS_V1:
        raise _bad_record(N_("the format of its timestamps is unknown to this version"))
    try:
        timestamps = codec.decode(_TimestampsV1, zlib.decompress(data[1:]))
    except (zlib.error, InputError) as exc:
        raise _bad_record(str(exc)) from exc
    sent = timestamps.sent_ns
    return Timing(
        sent_ns=sent,
        first_event_ns=_shift(timestamps.first_event_ns, sent),
        chunk_ns=tuple(accumulate(timestamps.gaps_ns, initial=sent))[1:],
        content_chars=timestamps.content_chars,
        reasoning_chars=timestamps.reasoning_chars,
        chunk_tokens=timestamps.chunk_tokens,
        output_tokens=timestamps.output_tokens,
        ended_ns=_shift(timestamps.ended_ns, sent),
    )


def _shift(timestamp_ns: int | None, by_ns: int) -> int | None:
    return None if timestamp_ns is None else timestamp_ns + by_ns


def _bad_record(detail: str) -> StoreError:
    return StoreError(
        N_("Can't read a stored record: {reason}", reason=detail),
        hint=N_("It is damaged, or was written by another version of LMDyno."),
        code="store-bad-record",
    )
