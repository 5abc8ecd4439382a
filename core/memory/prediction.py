"""The parts of an engine's GPU memory: predicted before a start, and found in one that runs.

The prediction is for LMDeploy TurboMind. The KV cache follows from `core.memory.kv_cache`, the weights from
the checkpoint. What CUDA and TurboMind need besides was measured with a model of InternLM2-1.8B's size on an
H100 (docs/measurements/memory.md), over two GPUs with one of InternLM2-7B's size on H200s
(docs/measurements/several-gpus.md), or follows from the buffers that LMDeploy's sources name; every part says
where it comes from.

Of a running engine only what is known is named: a part without a source is None, and what the known parts
leave over is "the rest", whatever it holds. Pure functions of plain numbers.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from core.errors import InputError
from core.i18n import N_, Text
from core.memory.kv_cache import KvLog, KvPool, KvShape, kv_pool
from core.telemetry.samples import MemorySource

CUDA_CONTEXT_BYTES = 968 * 2**20
"""What an engine holds besides weights before it reserves the KV cache: CUDA's context, cuBLAS, kernels."""
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
