import zlib
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Column, Engine, MetaData, Table, create_engine, insert, select, text
from sqlalchemy.types import TypeEngine

from core.domain.conversation import Sampling
from core.domain.timing import Timing
from core.domain.turns import Mode
from core.errors import StoreError
from core.store.columns import Choice, Document, FreeText, Timestamps, UtcDateTime, pack, unpack

_timestamp = st.integers(min_value=0, max_value=2**62)
_counts = st.lists(st.integers(min_value=0, max_value=10_000), max_size=20).map(tuple)


@given(
    st.builds(
        Timing,
        sent_ns=_timestamp,
        first_event_ns=st.none() | _timestamp,
        chunk_ns=st.lists(_timestamp, max_size=20).map(sorted).map(tuple),
        content_chars=_counts,
        reasoning_chars=_counts,
        chunk_tokens=st.none() | _counts,
        output_tokens=st.none() | st.integers(min_value=0, max_value=10_000),
        ended_ns=st.none() | _timestamp,
    )
)
def test_timestamps_come_back_to_the_nanosecond(timing: Timing) -> None:
    assert unpack(pack(timing)) == timing


def test_timestamps_of_a_long_answer_are_small() -> None:
    timestamps = tuple(10**15 + place * 3_100_007 + place % 97 * 4_001 for place in range(2000))
    timing = Timing(sent_ns=10**15, chunk_ns=timestamps, content_chars=(4,) * 2000, output_tokens=2000)
    assert len(pack(timing)) < 6 * 2000


@pytest.mark.parametrize(
    "data",
    [b"", b"\x02later", b"\x01not zlib", b"\x01" + zlib.compress(b'{"sent_ns": "?"}')],
    ids=["empty", "later-version", "not-compressed", "wrong-field"],
)
def test_other_bytes_are_a_bad_record(data: bytes) -> None:
    with pytest.raises(StoreError) as caught:
        unpack(data)
    assert caught.value.code == "store-bad-record"


def test_an_instant_comes_back_in_utc() -> None:
    noon_in_shanghai = datetime(2026, 5, 1, 12, 0, 0, 7, tzinfo=timezone(timedelta(hours=8)))
    loaded = _stored(UtcDateTime(), noon_in_shanghai)
    assert loaded == noon_in_shanghai
    assert loaded.tzinfo is UTC


def test_text_that_is_not_utf8_keeps_its_length() -> None:
    assert _stored(FreeText(), "caf\udce9 是 \x00") == "caf\ufffd 是 \x00"


def test_an_unknown_choice_is_a_bad_record() -> None:
    with pytest.raises(StoreError) as caught:
        _loaded(Choice(Mode), "sideways")
    assert caught.value.code == "store-bad-record"


def test_a_document_that_does_not_fit_names_the_field() -> None:
    with pytest.raises(StoreError, match="top_k") as caught:
        _loaded(Document(Sampling), '{"top_k": "many"}')
    assert caught.value.code == "store-bad-record"


def _table(kind: TypeEngine) -> tuple[Engine, Table]:
    engine = create_engine("sqlite://")
    table = Table("t", MetaData(), Column("value", kind))
    table.create(engine)
    return engine, table


def _stored(kind: TypeEngine, value: object) -> object:
    engine, table = _table(kind)
    with engine.begin() as connection:
        connection.execute(insert(table).values(value=value))
        return connection.scalar(select(table.c.value))


def _loaded(kind: TypeEngine, raw: str) -> object:
    engine, table = _table(kind)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO t VALUES (:raw)"), {"raw": raw})
        return connection.scalar(select(table.c.value))


def test_none_stays_none() -> None:
    for kind in (UtcDateTime(), FreeText(), Choice(Mode), Document(Sampling), Timestamps()):
        assert _stored(kind, None) is None
