"""An engine's GPU memory: predicted before a start, and found in one that runs; above all, the KV cache.

The prediction is for LMDeploy TurboMind. The weights come from the checkpoint, the KV cache from TurboMind's
own arithmetic, read in LMDeploy's sources (https://github.com/InternLM/lmdeploy):
`src/turbomind/turbomind.cc` takes `cache_max_entry_count` of the memory that is free after the weights are
loaded; `src/turbomind/memory/page.h`, `slab.h` and `object.cc` divide it into pages of 32 MiB and these into
slabs of equal blocks; a block holds keys and values of 64 tokens in all layers. It holds for decoder models
whose layers all have an ordinary KV cache (MHA, GQA, MQA), not for MLA, sliding windows or linear attention.

What CUDA and TurboMind need besides was measured with a model of InternLM2-1.8B's size on an H100
(docs/measurements/memory.md), over two GPUs with one of InternLM2-7B's size on H200s
(docs/measurements/several-gpus.md), or follows from the buffers that LMDeploy's sources name; every part says
where it comes from.

Of a running engine only what is known is named: a part without a source is None, and what the known parts
leave over is "the rest", whatever it holds. Its KV cache is read from lines of the start-up log of LMDeploy
0.18 (`src/turbomind/turbomind.cc`, `memory/slab.h`); the first is written at TurboMind's level INFO, the
second at WARN, and their "MB" are MiB:

    Object cache budget: 26214.40 MB from free 65536.00 MB and ratio 0.400
    slab_size 33554432, object_size 4194304, object_count 8, ratio 1

Pure functions of plain numbers and texts: reads no checkpoint and asks no GPU.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from core.errors import InputError
from core.i18n import N_, Text
from core.models.model_config import Attention
from core.telemetry.samples import MemorySource

BLOCK_TOKENS = 64
"""Tokens in a block: LMDeploy's default `cache_block_seq_len`."""
KV_BITS = (16, 8, 4)
CUDA_CONTEXT_BYTES = 968 * 2**20
"""What an engine holds besides weights before it reserves the KV cache: CUDA's context, cuBLAS, kernels."""
_PAGE_BYTES = 32 * 2**20
"""What TurboMind's allocator divides the reserved memory into."""
_DTYPE_BITS = 16
"""TurboMind computes in float16 or bfloat16 only."""
_MAX_SLAB_BYTES = 2**30
_MIN_SLAB_USE = 0.95
_MIB = 2**20
_BUDGET = re.compile(
    r"Object cache budget: ([\d.]+) MB from (?:free|cacheable) ([\d.]+) MB and ratio ([\d.]+)"
)
_SLAB = re.compile(r"slab_size (\d+), object_size (\d+), object_count (\d+), ratio")
_WEIGHTS_LOADED = re.compile(r"Loading[^|\r\n]*?100%\||Object cache budget: ")
_COMMUNICATION_BYTES = 294 * 2**20
"""What NCCL and TurboMind take of each GPU before the KV cache, to exchange results over several."""
_AWQ_LOADING_RATIO = 5.74
"""W4A16 weights are repacked while loading, in scratch memory that TurboMind's pool keeps: this many times
the 16-bit size of a layer's gate and up projection."""
_BYTES_16_BIT = 2
_PREFILL_TOKENS = 8192
"""LMDeploy's default `max_prefill_token_num`."""
_AWQ_BYTES_PER_WEIGHT = (4 + 32 / 128) / 8
"""Four bits, and for each group of 128 weights a 16-bit scale and a 16-bit zero point."""
_WEIGHTS_COUNTED = N_("parameters counted from config.json")
_ATTENTION_PARTIALS = 4096
_GEMM_WORKSPACE_BYTES = 33 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class KvShape:
    """The dimensions of a model that decide the size of its KV cache."""

    layers: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KvPool:
    """A KV cache as TurboMind lays it out, on each GPU that the engine spans."""

    reserved_bytes: int
    """Taken from the GPU at start, whatever of it is used later."""
    block_bytes: int
    """Keys and values of `BLOCK_TOKENS` tokens."""
    slab_bytes: int
    blocks: int

    @property
    def tokens(self) -> int:
        """Tokens that fit, over all sequences together."""
        return self.blocks * BLOCK_TOKENS

    @property
    def usable_bytes(self) -> int:
        """What blocks can fill; the rest of the reserved memory is lost to rounding."""
        return self.blocks * self.block_bytes

    def sequences(self, length_tokens: int) -> int:
        """Sequences of this length that fit at once; each takes whole blocks."""
        if length_tokens < 1:
            raise InputError(
                N_("A sequence can't have {n} tokens.", n=length_tokens),
                hint=N_("Choose a length greater than 0."),
            )
        return self.blocks // -(-length_tokens // BLOCK_TOKENS)


def kv_bytes_per_token(shape: KvShape, *, kv_bits: int = 16, tp: int = 1) -> int:
    """Bytes of one token's keys and values in all layers, on one GPU of `tp`.

    A quantised cache (8 or 4 bits) keeps a 16-bit scale and zero point for each head and token besides.
    """
    if kv_bits not in KV_BITS:
        raise InputError(
            N_("The KV cache can't have {bits} bits.", bits=kv_bits), hint=N_("Choose 16, 8, or 4.")
        )
    parameter_bits = 0 if kv_bits == _DTYPE_BITS else 2 * _DTYPE_BITS
    head_bits = shape.head_dim * kv_bits + parameter_bits
    return shape.layers * _kv_heads_per_gpu(shape, tp) * 2 * head_bits // 8


def kv_pool(shape: KvShape, reserved_bytes: int, *, kv_bits: int = 16, tp: int = 1) -> KvPool:
    """The blocks that TurboMind makes of `reserved_bytes` on each GPU."""
    block_bytes = kv_bytes_per_token(shape, kv_bits=kv_bits, tp=tp) * BLOCK_TOKENS
    slab_bytes = _slab_bytes(block_bytes)
    pages = max(0, reserved_bytes) // _PAGE_BYTES
    slabs = pages * _PAGE_BYTES // slab_bytes
    return KvPool(
        reserved_bytes=max(0, reserved_bytes),
        block_bytes=block_bytes,
        slab_bytes=slab_bytes,
        blocks=slabs * (slab_bytes // block_bytes),
    )


def refuse_unless_plain_attention(architecture: str, attention: Attention) -> None:
    """Raise InputError (`kv-arithmetic-unknown`) for models whose cache is laid out otherwise."""
    if attention.is_plain:
        return
    raise InputError(
        N_(
            "Can't predict the KV cache of {architecture}: {reason}.",
            architecture=architecture,
            reason=attention.reason or str(attention.kind),
        ),
        hint=N_("Start the engine and measure its memory instead."),
        code="kv-arithmetic-unknown",
    )


def _kv_heads_per_gpu(shape: KvShape, tp: int) -> int:
    """Heads are shared out over the GPUs; with fewer heads than GPUs each keeps a copy of one."""
    if tp < 1 or (shape.kv_heads % tp and tp % shape.kv_heads):
        raise InputError(
            N_("Can't divide {heads} KV heads among {gpus} GPUs.", heads=shape.kv_heads, gpus=tp),
            hint=N_("Choose a tensor parallel size that divides the number of KV heads."),
        )
    return max(1, shape.kv_heads // tp)


def _slab_bytes(block_bytes: int) -> int:
    """The smallest power of two of pages that holds a block, doubled until at most 5 % is left over."""
    pages = -(-block_bytes // _PAGE_BYTES)
    slab = (1 << (pages - 1).bit_length()) * _PAGE_BYTES
    while slab // block_bytes * block_bytes / slab < _MIN_SLAB_USE and slab * 2 <= _MAX_SLAB_BYTES:
        slab *= 2
    return slab


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSizes:
    """The sizes of a checkpoint that the prediction needs, for the form in which it is loaded."""

    weight_bytes: int
    kv: KvShape
    heads: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int
    awq: bool = False
    counted: bool = False
    """The weights are counted from config.json, not read from files."""

    @property
    def loading_bytes(self) -> int:
        """Scratch memory of loading that stays with the engine."""
        if not self.awq:
            return 0
        return int(_AWQ_LOADING_RATIO * 2 * self.intermediate_size * self.hidden_size * _BYTES_16_BIT)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySettings:
    """The engine settings that decide its memory, under LMDeploy's names."""

    cache_max_entry_count: float
    kv_bits: int = 16
    max_batch_size: int = 64
    session_len: int = 4096
    tp: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.cache_max_entry_count < 1:
            raise InputError(
                N_("{value} is not a valid KV cache ratio.", value=f"{self.cache_max_entry_count:g}"),
                hint=N_(
                    "cache_max_entry_count is a share of the free memory, greater than 0 and less than 1."
                ),
            )


@dataclass(frozen=True, slots=True)
class MemoryPart:
    """A part of an engine's memory on one GPU, and how its size is known."""

    name: str
    size_bytes: int
    source: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPrediction:
    """One engine on each of the GPUs that it spans."""

    parts: tuple[MemoryPart, ...]
    pool: KvPool
    free_before_bytes: int
    sequences: int
    """Sequences of `session_len` tokens that the KV cache holds at once."""

    @property
    def total_bytes(self) -> int:
        return sum(part.size_bytes for part in self.parts)

    @property
    def headroom_bytes(self) -> int:
        """What stays free; negative when the engine does not fit."""
        return self.free_before_bytes - self.total_bytes

    @property
    def fits(self) -> bool:
        return self.headroom_bytes >= 0

    @property
    def holds_a_session(self) -> bool:
        """Whether one sequence can grow to the whole context length."""
        return self.sequences > 0


def predict(model: ModelSizes, settings: MemorySettings, free_bytes: int) -> MemoryPrediction:
    """The engine's memory on a GPU with `free_bytes` free before it starts.

    Raises InputError for KV bits or a tensor parallel size that TurboMind does not take.
    """
    weight_bytes = model.weight_bytes // settings.tp
    free_after_weights = _free_after_weights(model, settings, free_bytes)
    pool = kv_pool(
        model.kv,
        int(settings.cache_max_entry_count * max(0, free_after_weights)),
        kv_bits=settings.kv_bits,
        tp=settings.tp,
    )
    return MemoryPrediction(
        parts=(
            MemoryPart(N_("CUDA context"), CUDA_CONTEXT_BYTES, N_("measured on an H100")),
            MemoryPart(N_("weights"), weight_bytes, _WEIGHTS_COUNTED if model.counted else N_("checkpoint")),
            MemoryPart(N_("repacking"), model.loading_bytes // settings.tp, N_("measured on an H100")),
            *_communication(settings),
            MemoryPart(N_("KV cache"), pool.reserved_bytes, N_("TurboMind's arithmetic")),
            MemoryPart(N_("buffers"), _buffer_bytes(model, settings), N_("estimate from LMDeploy's sources")),
        ),
        pool=pool,
        free_before_bytes=free_bytes,
        sequences=pool.sequences(settings.session_len),
    )


def predict_in_order(
    engines: Iterable[tuple[ModelSizes, MemorySettings]], free_bytes: int
) -> tuple[MemoryPrediction, ...]:
    """Predict several engines on one GPU: each takes its ratio of the memory left by those before it."""
    predictions: list[MemoryPrediction] = []
    for model, settings in engines:
        predictions.append(predict(model, settings, free_bytes))
        free_bytes = max(0, predictions[-1].headroom_bytes)
    return tuple(predictions)


def largest_ratio(model: ModelSizes, settings: MemorySettings, free_bytes: int) -> float | None:
    """The KV ratio at which nothing would stay free: the out-of-memory line. None if no ratio fits."""
    free_after_weights = _free_after_weights(model, settings, free_bytes)
    left = free_after_weights - _buffer_bytes(model, settings)
    return left / free_after_weights if left > 0 else None


def weight_bytes_16_bit(parameters: int) -> int:
    """Weights in float16 or bfloat16, whatever the checkpoint holds."""
    return parameters * _BYTES_16_BIT


def weight_bytes_awq(parameters: int, linear_parameters: int) -> int:
    """W4A16 weights; what isn't a linear layer of the language model stays in 16 bits."""
    others = parameters - linear_parameters
    return int(linear_parameters * _AWQ_BYTES_PER_WEIGHT) + others * _BYTES_16_BIT


def _free_after_weights(model: ModelSizes, settings: MemorySettings, free_bytes: int) -> int:
    taken = CUDA_CONTEXT_BYTES + (model.weight_bytes + model.loading_bytes) // settings.tp
    return free_bytes - taken - sum(part.size_bytes for part in _communication(settings))


def _communication(settings: MemorySettings) -> tuple[MemoryPart, ...]:
    if settings.tp == 1:
        return ()
    return (MemoryPart(N_("communication"), _COMMUNICATION_BYTES, N_("measured on two H200")),)


def _buffer_bytes(model: ModelSizes, settings: MemorySettings) -> int:
    """Activations of one forward pass at its widest, logits, and the workspaces of attention and GEMM.

    The widest moment is the gated FFN's two halves; the pool's other buffers fit into what it leaves. The
    workspaces are constants of TurboMind's sources: 4,096 float32 partial results of attention for each head,
    and 33 MiB for GEMM.
    """
    tokens = _PREFILL_TOKENS + settings.max_batch_size
    activations = tokens * 2 * model.intermediate_size // settings.tp * _BYTES_16_BIT
    logits = settings.max_batch_size * model.vocab_size * (_BYTES_16_BIT + 4)
    partials = _ATTENTION_PARTIALS * model.heads // settings.tp * model.kv.head_dim * 4
    return activations + logits + partials + _GEMM_WORKSPACE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class KvLog:
    """The KV cache by the engine's own words, on each GPU that it spans."""

    reserved_bytes: int
    free_bytes: int
    """Free on the GPU when the cache was cut: after the weights were loaded."""
    ratio: float
    block_bytes: int | None = None
    slab_bytes: int | None = None
    blocks_per_slab: int | None = None

    @property
    def tokens(self) -> int | None:
        """Tokens that fit; None unless the log has exactly one layout."""
        if not self.slab_bytes or self.blocks_per_slab is None:
            return None
        slabs = self.reserved_bytes // _PAGE_BYTES * _PAGE_BYTES // self.slab_bytes
        return slabs * self.blocks_per_slab * BLOCK_TOKENS


def read_kv_log(log: str) -> KvLog | None:
    """The KV cache of the engine that wrote this log; None if its log doesn't tell."""
    budget = _BUDGET.search(log)
    if budget is None:
        return None
    reserved, free = (int(float(size) * _MIB) for size in budget.group(1, 2))
    facts = KvLog(reserved_bytes=reserved, free_bytes=free, ratio=float(budget[3]))
    layouts = {match.groups() for match in _SLAB.finditer(log)}
    if len(layouts) != 1:
        return facts
    slab, block, count = map(int, layouts.pop())
    return KvLog(
        reserved_bytes=reserved,
        free_bytes=free,
        ratio=facts.ratio,
        block_bytes=block,
        slab_bytes=slab,
        blocks_per_slab=count,
    )


def weights_are_loaded(log: str) -> bool:
    """Whether a starting engine has told that its weights are in memory."""
    return _WEIGHTS_LOADED.search(log) is not None


def kv_is_reserved(log: str) -> bool:
    return _SLAB.search(log) is not None


class Part(StrEnum):
    BASELINE = "baseline"
    WEIGHTS = "weights"
    KV_IN_USE = "KV in use"
    KV_FREE = "KV reserved, not in use"
    KV_RESERVED = "KV reserved"
    """Both of the above, where their border is not known."""
    REST = "other"


@dataclass(frozen=True, slots=True)
class SplitPart:
    """A part's size on each GPU, or in host memory; None with the reason as its source."""

    part: Part
    size_bytes: int | None
    source: Text


TOTAL_SOURCES = {
    MemorySource.PROCESSES: N_("NVML, the engine's processes"),
    MemorySource.DIFFERENCE: N_("NVML, growth of the GPU's memory since before the engine's start"),
    None: N_("resident memory of the engine's processes"),
}


def split_memory(
    total_bytes: int | None,
    *,
    weight_bytes: int | None,
    free_before_bytes: int | None = None,
    kv: KvLog | None = None,
    kv_used_ratio: float | None = None,
) -> tuple[SplitPart, ...]:
    """The parts of an engine's memory; they add up to `total_bytes` where that is known.

    Args:
        total_bytes: what the engine holds now.
        weight_bytes: its weights as it loads them.
        free_before_bytes: free memory of its GPU just before its start.
        kv: what its log says of the KV cache.
        kv_used_ratio: share of the KV cache that holds tokens now.
    """
    parts = [
        _baseline(weight_bytes, free_before_bytes, kv),
        SplitPart(Part.WEIGHTS, weight_bytes, N_("checkpoint files")),
        *_kv_parts(kv, kv_used_ratio),
    ]
    known = sum(part.size_bytes for part in parts if part.size_bytes is not None)
    rest = None if total_bytes is None else max(0, total_bytes - known)
    return (*parts, SplitPart(Part.REST, rest, N_("total minus the parts above")))


def _baseline(weight_bytes: int | None, free_before_bytes: int | None, kv: KvLog | None) -> SplitPart:
    """Return what the process took before and while it loaded, besides the weights: CUDA's context and
    libraries.
    """
    if weight_bytes is None or free_before_bytes is None or kv is None:
        return SplitPart(
            Part.BASELINE,
            None,
            N_("not available: needs the GPU's memory before the start, and the engine's log"),
        )
    taken = free_before_bytes - kv.free_bytes - weight_bytes
    return SplitPart(
        Part.BASELINE, max(0, taken), N_("NVML before the start, minus the log's free memory and the weights")
    )


def _kv_parts(kv: KvLog | None, used_ratio: float | None) -> tuple[SplitPart, ...]:
    if kv is None:
        return (SplitPart(Part.KV_RESERVED, None, N_("not reported by the engine")),)
    if used_ratio is None:
        return (SplitPart(Part.KV_RESERVED, kv.reserved_bytes, N_("engine's log")),)
    used = int(min(1.0, max(0.0, used_ratio)) * kv.reserved_bytes)
    return (
        SplitPart(Part.KV_IN_USE, used, N_("engine's /metrics")),
        SplitPart(Part.KV_FREE, kv.reserved_bytes - used, N_("engine's log, minus what is in use")),
    )
