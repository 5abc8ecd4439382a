"""The agreement of two greedy answers to the same prompt, token by token.

Knows lists of token ids, or of pieces of text; nothing of lanes. Greedy decoding has no chance in it, so two
engines with the same weights differ only by rounding: one near tie that falls the other way changes all that
follows. The share of equal positions therefore says less than where the answers part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from enum import StrEnum
from itertools import takewhile


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """One answer against the reference's."""

    reference_tokens: int
    tokens: int
    prefix_tokens: int
    """Equal tokens from the start."""
    equal_positions: int
    """Positions with the same token in both."""

    @property
    def identical(self) -> bool:
        return self.prefix_tokens == self.reference_tokens == self.tokens

    @property
    def longest(self) -> int:
        return max(self.reference_tokens, self.tokens)

    @property
    def parts_at(self) -> int | None:
        """The place of the first different token, counted from 0; None if there is none."""
        return None if self.identical else self.prefix_tokens

    @property
    def token_ratio(self) -> float | None:
        """Equal positions by those of the longer answer; None if both are empty."""
        return self.equal_positions / self.longest if self.longest else None

    @property
    def prefix_ratio(self) -> float | None:
        return self.prefix_tokens / self.longest if self.longest else None


class Change(StrEnum):
    SAME = "same"
    ONLY_REFERENCE = "only-reference"
    ONLY_LANE = "only-lane"


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a diff."""

    change: Change
    text: str


def agreement(reference: Sequence[int], lane: Sequence[int]) -> Agreement:
    pairs = [one == other for one, other in zip(reference, lane, strict=False)]
    return Agreement(
        reference_tokens=len(reference),
        tokens=len(lane),
        prefix_tokens=sum(1 for _ in takewhile(bool, pairs)),
        equal_positions=sum(pairs),
    )


def diff(reference: Sequence[str], lane: Sequence[str]) -> tuple[Piece, ...]:
    """Return what the answers have in common and where they differ, in the order of reading.

    Both are given as the texts of their tokens, or in words.
    """
    pieces: list[Piece] = []
    matcher = SequenceMatcher(None, reference, lane, autojunk=False)
    for operation, start, end, lane_start, lane_end in matcher.get_opcodes():
        if operation == "equal":
            pieces.append(Piece(Change.SAME, "".join(reference[start:end])))
            continue
        if end > start:
            pieces.append(Piece(Change.ONLY_REFERENCE, "".join(reference[start:end])))
        if lane_end > lane_start:
            pieces.append(Piece(Change.ONLY_LANE, "".join(lane[lane_start:lane_end])))
    return tuple(pieces)
