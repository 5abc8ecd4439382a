"""What the figures of a load test have to be: plain arithmetic on known times, apart from the program's own.

Follows the definitions in words (README.md, `core.bench.results.definitions`) and shares no code with what
computes
them, so that a wrong formula there shows. Whose the times are does not matter: a schedule's, the timestamps
of the server that wrote, or those of the client that read. Names are those of the JSON document's points.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

FIGURES = ("ttft_s", "tpot_s", "itl_s", "icl_s", "e2e_s", "decode_tok_per_s", "e2e_tok_per_s")
STATISTICS = ("mean", "p50", "p90", "p95", "p99")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One whole answer, whose chunks hold equally many tokens."""

    chunks_s: Sequence[float]
    """From the request to each chunk with text."""
    tokens_per_chunk: int = 1
    names_tokens: bool = False
    """The stream tells the tokens of each chunk; otherwise only their sum is known at its end."""

    @property
    def tokens(self) -> int:
        return len(self.chunks_s) * self.tokens_per_chunk

    @property
    def gaps_s(self) -> list[float]:
        return [later - earlier for earlier, later in pairwise(self.chunks_s)]

    @property
    def figures(self) -> dict[str, list[float]]:
        """The values that the answer adds to each figure; none where it can't be told."""
        e2e_s = self.chunks_s[-1]
        # Of an unknown first chunk one token is all that is sure.
        first_tokens = self.tokens_per_chunk if self.names_tokens else 1
        tpot_s = (self.chunks_s[-1] - self.chunks_s[0]) / (self.tokens - first_tokens)
        is_told = self.names_tokens or self.tokens_per_chunk == 1
        return {
            "ttft_s": [self.chunks_s[0]],
            "tpot_s": [tpot_s],
            "itl_s": [gap_s / self.tokens_per_chunk for gap_s in self.gaps_s] if is_told else [],
            "icl_s": self.gaps_s,
            "e2e_s": [e2e_s],
            "decode_tok_per_s": [1 / tpot_s] if tpot_s else [],
            "e2e_tok_per_s": [self.tokens / e2e_s],
        }


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """n, mean and percentiles, which lie linearly between the two nearest values."""
    if not values:
        return None
    cuts = statistics.quantiles(values if len(values) > 1 else [*values, *values], n=100, method="inclusive")
    percentiles = {name: cuts[int(name[1:]) - 1] for name in STATISTICS if name != "mean"}
    return {"n": len(values), "mean": statistics.fmean(values), **percentiles}


def figures_of(answers: Sequence[Answer]) -> dict[str, dict[str, float] | None]:
    """Every latency and speed of a point that consists of these answers."""
    each = [answer.figures for answer in answers]
    return {name: spread([value for figures in each for value in figures[name]]) for name in FIGURES}
