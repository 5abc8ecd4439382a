"""Votes as columns of numbers: which two lanes were compared, on which prompt, and which one was preferred.

What the statistics work on; they know nothing of people, texts or pages.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

FIRST, TIE, SECOND = 0, 1, 2
"""The outcomes of a comparison, as columns of a tally."""


class Comparison(NamedTuple):
    """One judgement of two lanes, by their places in the session."""

    prompt: int
    first: int
    second: int
    outcome: int
    """`FIRST`, `TIE` or `SECOND`."""


@dataclass(frozen=True, slots=True)
class Comparisons:
    """Judgements as columns, each with the lane of the lower place first."""

    lanes: int
    prompt: Ints
    pair: Ints
    """Place in `pairs_of(lanes)`."""
    outcome: Ints

    @property
    def count(self) -> int:
        return len(self.prompt)


def pairs_of(lanes: int) -> list[tuple[int, int]]:
    """Every two lanes once, the lower place first."""
    return list(combinations(range(lanes), 2))


def columns(comparisons: Iterable[Comparison], lanes: int) -> Comparisons:
    """The judgements as columns."""
    place = {pair: number for number, pair in enumerate(pairs_of(lanes))}
    rows = [
        (comparison.prompt, place[comparison.first, comparison.second], comparison.outcome)
        if comparison.first < comparison.second
        else (comparison.prompt, place[comparison.second, comparison.first], SECOND - comparison.outcome)
        for comparison in comparisons
    ]
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return Comparisons(lanes, table[:, 0], table[:, 1], table[:, 2])


def tallies(comparisons: Comparisons) -> Floats:
    """How often each pair ended how, for each prompt with comparisons: prompts × pairs × outcomes."""
    prompts, rows = np.unique(comparisons.prompt, return_inverse=True)
    counts = np.zeros((len(prompts), len(pairs_of(comparisons.lanes)), 3))
    np.add.at(counts, (rows, comparisons.pair, comparisons.outcome), 1)
    return counts
