"""The definition switch: the same timestamps under the formulas of other tools.

Tools mean different things by TTFT, ITL and TPOT (and by nothing as much as by TPOT), so a figure of ours can
only be held against one of theirs under their own formula. Read in their source, each where it says.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from core.domain.timing import Timing
from core.i18n import N_, Text

_NS = 1e-9


class Tool(StrEnum):
    LMDYNO = "lmdyno"
    VLLM = "vllm"
    SGLANG = "sglang"
    LMDEPLOY = "lmdeploy"
    GUIDELLM = "guidellm"
    AIPERF = "aiperf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One request's latencies under one definition, in seconds; None where it leaves them undefined."""

    ttft_s: float | None
    tpot_s: float | None
    itl_s: tuple[float, ...]
    """What the tool calls inter-token latency: several values a request, or one, or none."""
    e2e_s: float | None
    output_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A tool's definitions of its figures, in words and as functions of the timestamps."""

    tool: Tool
    title: str
    ttft: Text
    itl: Text
    tpot: Text
    e2e: Text
    tokens: Text
    throughput: Text
    source: str
    apply: Callable[[Timing, int | None], Figures]
    """Takes the timestamps, and the output length that was asked for where it was fixed."""
    ends_at_last_chunk: bool = False
    """System speed is over the time from the first request to the last chunk, instead of the whole pass."""


def system_tok_per_s(
    definition: Definition, timings: Sequence[Timing], window_s: float, requested_tokens: int | None
) -> float | None:
    """Output tokens of all requests a second, by the tool's own count and window; None if uncounted."""
    counts = [definition.apply(timing, requested_tokens).output_tokens for timing in timings]
    known = [count for count in counts if count is not None]
    if not known or len(known) < len(counts):
        return None
    if definition.ends_at_last_chunk:
        ends = [timing.chunk_ns[-1] for timing in timings if timing.chunk_ns]
        window_s = (max(ends) - min(t.sent_ns for t in timings)) * _NS if ends else 0.0
    return sum(known) / window_s if window_s > 0 else None


def _lmdyno(timing: Timing, _requested: int | None) -> Figures:
    return Figures(
        ttft_s=timing.ttft_s,
        tpot_s=timing.tpot_s,
        itl_s=timing.itl_s or (),
        e2e_s=timing.e2e_s,
        output_tokens=timing.output_tokens,
    )


def _vllm(timing: Timing, _requested: int | None) -> Figures:
    first_ns = timing.first_event_ns
    e2e_s = timing.e2e_s
    if first_ns is None:
        return Figures(ttft_s=None, tpot_s=None, itl_s=(), e2e_s=e2e_s, output_tokens=timing.output_tokens)
    ttft_s = (first_ns - timing.sent_ns) * _NS
    # The first event is the first chunk with text, unless it only named the role.
    timestamps = timing.chunk_ns if timing.chunk_ns[:1] == (first_ns,) else (first_ns, *timing.chunk_ns)
    return Figures(
        ttft_s=ttft_s,
        tpot_s=_spread(ttft_s, e2e_s, timing.output_tokens),
        itl_s=_gaps(timestamps),
        e2e_s=e2e_s,
        output_tokens=timing.output_tokens,
    )


def _sglang(timing: Timing, _requested: int | None) -> Figures:
    e2e_s = _whole_stream_s(timing)
    return Figures(
        ttft_s=timing.ttft_s,
        tpot_s=_spread(timing.ttft_s, e2e_s, timing.output_tokens),
        itl_s=timing.icl_s,
        e2e_s=e2e_s,
        output_tokens=timing.output_tokens,
    )


def _lmdeploy(timing: Timing, requested: int | None) -> Figures:
    tokens = timing.output_tokens if requested is None else requested
    e2e_s = _whole_stream_s(timing)
    return Figures(
        ttft_s=timing.ttft_s,
        tpot_s=_spread(timing.ttft_s, e2e_s, tokens),
        itl_s=timing.icl_s,
        e2e_s=e2e_s,
        output_tokens=tokens,
    )


def _guidellm(timing: Timing, _requested: int | None) -> Figures:
    tokens = timing.output_tokens
    ttft_s = (timing.chunk_ns[0] - timing.sent_ns) * _NS if timing.chunk_ns else None
    last_s = timing.e2e_s
    itl_s = _spread(ttft_s, last_s, tokens)
    return Figures(
        ttft_s=ttft_s,
        tpot_s=last_s / tokens if last_s is not None and tokens else None,
        itl_s=() if itl_s is None else (itl_s,),
        e2e_s=_whole_stream_s(timing),
        output_tokens=tokens,
    )


def _aiperf(timing: Timing, _requested: int | None) -> Figures:
    ttft_s = (timing.chunk_ns[0] - timing.sent_ns) * _NS if timing.chunk_ns else None
    itl_s = _spread(ttft_s, timing.e2e_s, timing.output_tokens)
    return Figures(
        ttft_s=ttft_s,
        tpot_s=itl_s,
        itl_s=() if itl_s is None else (itl_s,),
        e2e_s=timing.e2e_s,
        output_tokens=timing.output_tokens,
    )


def _spread(ttft_s: float | None, e2e_s: float | None, tokens: int | None) -> float | None:
    """(E2E − TTFT) / (tokens − 1)."""
    if ttft_s is None or e2e_s is None or tokens is None or tokens < 2:
        return None
    return (e2e_s - ttft_s) / (tokens - 1)


def _gaps(timestamps_ns: Sequence[int]) -> tuple[float, ...]:
    return tuple((later - earlier) * _NS for earlier, later in pairwise(timestamps_ns))


def _whole_stream_s(timing: Timing) -> float | None:
    """Send → end of the stream, `[DONE]` and usage included."""
    return None if timing.ended_ns is None else (timing.ended_ns - timing.sent_ns) * _NS


TTFT_WITH_IMAGE = N_("TTFT includes sending it, and decoding, scaling and encoding it in the engine")
"""What an image adds to every tool's TTFT, which is why requests with and without are kept apart."""

_TOTAL = N_("all output tokens / the whole pass")

DEFINITIONS: Mapping[Tool, Definition] = {
    definition.tool: definition
    for definition in (
        Definition(
            tool=Tool.LMDYNO,
            title="LMDyno",
            ttft=N_("send → first chunk with non-empty content"),
            itl=N_("each gap between chunks / the tokens of the chunk that ends it, where those are known"),
            tpot=N_("(last chunk − first chunk) / (output tokens − tokens in the first chunk)"),
            e2e=N_("send → last chunk with text"),
            tokens=N_("the engine's usage, without the closing end-of-sequence token"),
            throughput=_TOTAL,
            source="core/domain/timing.py",
            apply=_lmdyno,
        ),
        Definition(
            tool=Tool.VLLM,
            title="vLLM bench serve",
            ttft=N_("send → first event with choices, even one with only the role"),
            itl=N_("each gap between events, not divided by tokens"),
            tpot=N_("(E2E − TTFT) / (output tokens − 1)"),
            e2e=N_("send → last event with choices (here with text: the closing one is not timestamped)"),
            tokens=N_("the server's usage"),
            throughput=_TOTAL,
            source="vllm/benchmarks/lib/endpoint_request_func.py and serve.py",
            apply=_vllm,
        ),
        Definition(
            tool=Tool.SGLANG,
            title="SGLang bench_serving",
            ttft=N_("send → first chunk with content"),
            itl=N_("each gap between chunks, not divided by tokens"),
            tpot=N_("(E2E − TTFT) / (output tokens − 1)"),
            e2e=N_("send → end of the stream, [DONE] included"),
            tokens=N_("the server's usage"),
            throughput=_TOTAL,
            source="sglang/bench_serving.py",
            apply=_sglang,
        ),
        Definition(
            tool=Tool.LMDEPLOY,
            title="LMDeploy profile_restful_api",
            ttft=N_("send → first chunk with content"),
            itl=N_("each gap between chunks, not divided by tokens"),
            tpot=N_("(E2E − TTFT) / (output tokens − 1)"),
            e2e=N_("send → end of the stream, [DONE] included"),
            tokens=N_(
                "the length that was asked for, whether or not it came; without a fixed length the usage"
            ),
            throughput=_TOTAL,
            source="lmdeploy/benchmark/profile_restful_api.py",
            apply=_lmdeploy,
        ),
        Definition(
            tool=Tool.GUIDELLM,
            title="GuideLLM",
            ttft=N_("send → first chunk with content or reasoning; its clock starts before connecting"),
            itl=N_("(last chunk − first chunk) / (output tokens − 1), one value per request"),
            tpot=N_("(last chunk − send) / output tokens: includes the TTFT"),
            e2e=N_("send → end of the stream"),
            tokens=N_("the server's usage"),
            throughput=_TOTAL,
            source="guidellm/schemas/base/request_stats.py (0.8.1)",
            apply=_guidellm,
        ),
        Definition(
            tool=Tool.AIPERF,
            title="AIPerf",
            ttft=N_("send → first non-empty chunk, content or reasoning"),
            itl=N_("(E2E − TTFT) / (output tokens − 1), one value per request"),
            tpot=N_("AIPerf's inter-token latency"),
            e2e=N_("send → last chunk with text"),
            tokens=N_("here the server's usage; AIPerf prefers its own tokeniser"),
            throughput=N_("all output tokens / (last chunk − first send)"),
            source="aiperf/metrics/types/",
            apply=_aiperf,
            ends_at_last_chunk=True,
        ),
    )
}
