"""The growth of a running request: what is new since the last look, and joining such pieces."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from core.domain.timing import Timing
from core.domain.turns import RequestRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """A request as it stands, but of its answer only the chunks from `first_chunk` on."""

    record: RequestRecord
    """Its text, reasoning and the lists of its timing hold those chunks alone."""
    first_chunk: int

    @property
    def next_chunk(self) -> int:
        """Where the next growth begins."""
        return self.first_chunk + (len(self.record.timing.chunk_ns) if self.record.timing else 0)


def joined(growths: Sequence[Growth]) -> Growth:
    """Growths of one request that follow each other, as one; all but the answer is the last one's."""
    first, last = growths[0], growths[-1]
    answer = grown(replace(last.record, text="", reasoning="", timing=None), growths)
    return Growth(record=answer, first_chunk=first.first_chunk)


def grown(record: RequestRecord, growths: Sequence[Growth]) -> RequestRecord:
    """The record with what its answer has grown by since; they follow each other."""
    records = (record, *(growth.record for growth in growths))
    return replace(
        record,
        text="".join(part.text for part in records),
        reasoning="".join(part.reasoning for part in records),
        timing=_joined_timing([part.timing for part in records if part.timing is not None]),
    )


def _joined_timing(parts: Sequence[Timing]) -> Timing | None:
    if not parts:
        return None
    last = parts[-1]
    chunked = [part for part in parts if part.chunk_ns]
    has_reasoning = any(part.reasoning_chars for part in chunked)
    names_tokens = chunked and all(part.chunk_tokens is not None for part in chunked)
    return replace(
        last,
        chunk_ns=tuple(timestamp for part in chunked for timestamp in part.chunk_ns),
        content_chars=tuple(chars for part in chunked for chars in part.content_chars),
        # A piece without any reasoning has no list of it.
        reasoning_chars=tuple(
            chars for part in chunked for chars in part.reasoning_chars or (0,) * len(part.chunk_ns)
        )
        if has_reasoning
        else (),
        chunk_tokens=tuple(tokens for part in chunked for tokens in part.chunk_tokens or ())
        if names_tokens
        else None,
    )
