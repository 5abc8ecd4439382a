"""Timestamps of one streamed answer, and every latency metric derived from them.

Facts are stored, numbers are properties: a metric that the facts don't define is None, never 0. A chunk is
what the stream delivered, not a token: engines send several tokens at once, or hold some back.
All timestamps are `time.perf_counter_ns()` of the process that sent the request.
"""

from dataclasses import dataclass
from itertools import pairwise

_NS = 1e-9
_BURST_TPOT_S = 0.0005
"""Faster than any model decodes alone today (2,000 tok/s), so the pieces were held back on their way."""
_BURST_BATCHED_TPOT_S = 0.002
"""The same where several chunks came at one moment, as a proxy's buffer lets them go."""
_BURST_RATIO = 10
"""How much slower the answer as a whole must have been, so that a quick start is not taken for a burst."""
_BURST_TOKENS = 8
"""From how many tokens on a single chunk is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The timestamps of a request's sending and of each chunk of its answer."""

    sent_ns: int
    """Immediately before the request was written to the connection, which then stands: connecting counts in
    no metric, as in guidellm. vLLM's benchmark starts its clock earlier and counts it where it opens one."""
    first_event_ns: int | None = None
    """The first stream event with `choices`, even one without text (vLLM's idea of a first token)."""
    chunk_ns: tuple[int, ...] = ()
    """Arrival of each chunk with text (content or reasoning) or a tool call, in order."""
    content_chars: tuple[int, ...] = ()
    """Characters of content in each of these chunks; the answer's text is cut at these lengths."""
    reasoning_chars: tuple[int, ...] = ()
    """The same for reasoning text; empty when the answer had none at all."""
    chunk_tokens: tuple[int, ...] | None = None
    """Output tokens in each of these chunks, where the engine names its token ids."""
    output_tokens: int | None = None
    """Generated tokens without the closing end-of-sequence token: by the engine's usage, or for an answer cut
    short by its token ids."""
    ended_ns: int | None = None
    """The end of the stream: `[DONE]`, its last byte, or the moment of cancelling."""

    @property
    def ttft_s(self) -> float | None:
        """Time to first token: send → first chunk with non-empty content (AIPerf's and NIM's rule)."""
        first = self._first_content
        return None if first is None else (first - self.sent_ns) * _NS

    @property
    def reasoning_ttft_s(self) -> float | None:
        """Send → first chunk with reasoning text; None without any."""
        for timestamp, chars in zip(self.chunk_ns, self.reasoning_chars, strict=False):
            if chars:
                return (timestamp - self.sent_ns) * _NS
        return None

    @property
    def e2e_s(self) -> float | None:
        """End-to-end latency: send → last chunk with text; usage and `[DONE]` come later and don't count."""
        return (self.chunk_ns[-1] - self.sent_ns) * _NS if self.chunk_ns else None

    @property
    def first_chunk_tokens(self) -> int:
        """Tokens in the first chunk: by the engine's token ids, else one, as vLLM and LMDeploy assume."""
        return self.chunk_tokens[0] if self.chunk_tokens else 1

    @property
    def is_burst(self) -> bool:
        """Whether the text came in one burst, as from a proxy that holds the answer back: the gap between its
        first and last chunk is too small against E2E for its tokens and tells nothing of decoding."""
        if self.output_tokens is None or not self.chunk_ns:
            return False
        if len(self.chunk_ns) == 1:
            return self.output_tokens >= _BURST_TOKENS
        tpot_s = self._gap_per_token_s
        if tpot_s is None or self.e2e_s is None:
            return False
        if tpot_s == 0:
            return True
        is_batched = 2 * len(set(self.chunk_ns)) <= len(self.chunk_ns)
        if tpot_s > (_BURST_BATCHED_TPOT_S if is_batched else _BURST_TPOT_S):
            return False
        return self.e2e_s / self.output_tokens > _BURST_RATIO * tpot_s

    @property
    def tpot_s(self) -> float | None:
        """Time per output token: (last chunk − first chunk) / (output tokens − tokens in the first chunk).

        Reasoning text counts like content here, since the engine's token count holds both. None without
        later tokens, without a token count, and for a text that came in one burst.
        """
        return None if self.is_burst else self._gap_per_token_s

    @property
    def decode_tok_per_s(self) -> float | None:
        """1 / TPOT."""
        tpot_s = self.tpot_s
        return 1 / tpot_s if tpot_s else None

    @property
    def e2e_tok_per_s(self) -> float | None:
        """Output tokens / E2E."""
        e2e_s = self.e2e_s
        return self.output_tokens / e2e_s if self.output_tokens is not None and e2e_s else None

    @property
    def icl_s(self) -> tuple[float, ...]:
        """Inter-chunk latencies: the gaps between chunks as the stream delivered them."""
        return tuple((later - earlier) * _NS for earlier, later in pairwise(self.chunk_ns))

    @property
    def itl_s(self) -> tuple[float, ...] | None:
        """Inter-token latencies: each gap divided by the tokens of the chunk that ended it.

        None where the tokens of each chunk are unknown (the engine names no token ids, and the number of
        chunks is not the number of tokens), and for a text that came in one burst.
        """
        if self.is_burst:
            return None
        if self.chunk_tokens is not None:
            tokens = self.chunk_tokens[1:]
        elif self.output_tokens is not None and len(self.chunk_ns) == self.output_tokens:
            tokens = (1,) * (len(self.chunk_ns) - 1)
        else:
            return None
        return tuple(gap / count for gap, count in zip(self.icl_s, tokens, strict=True) if count)

    @property
    def _gap_per_token_s(self) -> float | None:
        if self.output_tokens is None or len(self.chunk_ns) < 2:
            return None
        later_tokens = self.output_tokens - self.first_chunk_tokens
        if later_tokens < 1:
            return None
        return (self.chunk_ns[-1] - self.chunk_ns[0]) * _NS / later_tokens

    @property
    def _first_content(self) -> int | None:
        for timestamp, chars in zip(self.chunk_ns, self.content_chars, strict=True):
            if chars:
                return timestamp
        return None
