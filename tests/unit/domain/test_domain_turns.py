"""Answers cut into pieces and joined again."""

from dataclasses import replace
from itertools import pairwise

import pytest

from core.domain.timing import Timing
from core.domain.turns import Growth, Phase, grown, joined
from tests.unit.store.store_samples import a_plan, a_record

WORDS = ("", "Par", "is ", "是", "!", "")
THOUGHTS = ("hm", "m", "", "", "", "")
PLAN = a_plan()


def whole(*, reasons=True, names_tokens=True, **changes):
    """A record of an answer of six chunks."""
    timing = Timing(
        sent_ns=100,
        first_event_ns=110,
        chunk_ns=tuple(range(120, 180, 10)),
        content_chars=tuple(map(len, WORDS)),
        reasoning_chars=tuple(map(len, THOUGHTS)) if reasons else (),
        chunk_tokens=(1, 1, 2, 1, 1, 0) if names_tokens else None,
        output_tokens=6,
    )
    text, thoughts = "".join(WORDS), "".join(THOUGHTS) if reasons else ""
    return a_record(PLAN, phase=Phase.STREAMING, text=text, reasoning=thoughts, timing=timing, **changes)


def cut(record, *places):
    """The growths of a record that is looked at after each of these numbers of chunks."""
    timing = record.timing
    pieces = []
    for start, end in pairwise((0, *places, len(WORDS))):
        piece = replace(
            timing,
            chunk_ns=timing.chunk_ns[start:end],
            content_chars=timing.content_chars[start:end],
            reasoning_chars=timing.reasoning_chars[start:end],
            chunk_tokens=timing.chunk_tokens and timing.chunk_tokens[start:end],
        )
        thoughts = "".join(THOUGHTS[start:end]) if timing.reasoning_chars else ""
        said = replace(record, text="".join(WORDS[start:end]), reasoning=thoughts, timing=piece)
        pieces.append(Growth(record=said, first_chunk=start))
    return pieces


@pytest.mark.parametrize("places", [(), (0,), (0, 0), (1,), (3, 3), (2, 5), (1, 2, 3, 4, 5), (6,), (6, 6)])
@pytest.mark.parametrize("reasons", [True, False])
@pytest.mark.parametrize("names_tokens", [True, False])
def test_pieces_make_the_whole_again(places, reasons, names_tokens):
    record = whole(reasons=reasons, names_tokens=names_tokens)
    pieces = cut(record, *places)
    bare = a_record(PLAN, phase=Phase.STREAMING)
    assert grown(bare, pieces) == record
    assert joined(pieces) == Growth(record=record, first_chunk=0)
    assert [piece.next_chunk for piece in pieces] == [*places, len(WORDS)]


def test_pieces_of_pieces_make_the_whole_again():
    record = whole()
    first, *rest = cut(record, 1, 2, 4)
    assert joined([first, joined(rest)]) == Growth(record=record, first_chunk=0)
    assert joined(rest).first_chunk == 1


def test_reasoning_that_begins_late_counts_zero_before():
    spoken = Timing(sent_ns=1, chunk_ns=(2, 3), content_chars=(1, 1))
    thought = Timing(sent_ns=1, chunk_ns=(4,), content_chars=(0,), reasoning_chars=(5,))
    timing = grown(
        a_record(PLAN),
        [
            Growth(record=a_record(PLAN, timing=spoken), first_chunk=0),
            Growth(record=a_record(PLAN, timing=thought), first_chunk=2),
        ],
    ).timing
    assert timing.reasoning_chars == (0, 0, 5)


def test_a_request_that_was_not_sent_has_no_chunks():
    growth = Growth(record=a_record(PLAN), first_chunk=0)
    assert (growth.next_chunk, grown(a_record(PLAN), [growth])) == (0, a_record(PLAN))


def test_what_else_is_known_is_the_newest():
    pieces = [
        Growth(record=a_record(PLAN, phase=Phase.SENT), first_chunk=0),
        Growth(record=a_record(PLAN, phase=Phase.STREAMING, prompt_tokens=9), first_chunk=0),
    ]
    assert joined(pieces).record == a_record(PLAN, phase=Phase.STREAMING, prompt_tokens=9)
