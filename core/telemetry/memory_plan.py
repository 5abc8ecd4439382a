"""What an LMDeploy TurboMind engine will take of a GPU, before it is started.

The KV cache follows from `core.telemetry.kv_cache`, the weights from the checkpoint. What CUDA and TurboMind
need besides is estimated from the buffers that LMDeploy's sources name; every part says where it comes from.
Pure functions of plain numbers.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from core.errors import InputError
from core.telemetry.kv_cache import KvPool, KvShape, kv_pool

CUDA_CONTEXT_BYTES = 512 * 2**20
"""What a process holds before its first allocation: CUDA's context, cuBLAS and the loaded kernels."""
_BYTES_16_BIT = 2
_PREFILL_TOKENS = 8192
"""LMDeploy's default `max_prefill_token_num`."""
_AWQ_BYTES_PER_WEIGHT = (4 + 32 / 128) / 8
"""Four bits, and for each group of 128 weights a 16-bit scale and a 16-bit zero point."""
_ATTENTION_PARTIALS = 4096
_GEMM_WORKSPACE_BYTES = 65 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSizes:
    """What of a checkpoint the prediction needs, for the form in which it is loaded."""

    weight_bytes: int
    kv: KvShape
    heads: int
    hidden_size: int
    intermediate_size: int
    vocab_size: int


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
                f"A KV ratio of {self.cache_max_entry_count:g}",
                hint="cache_max_entry_count is a share of the free memory, above 0 and below 1.",
            )


@dataclass(frozen=True, slots=True)
class MemoryPart:
    """A part of an engine's memory on one GPU, and how its size is known."""

    name: str
    size_bytes: int
    source: str


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
    free_after_weights = free_bytes - CUDA_CONTEXT_BYTES - weight_bytes
    pool = kv_pool(
        model.kv,
        int(settings.cache_max_entry_count * max(0, free_after_weights)),
        kv_bits=settings.kv_bits,
        tp=settings.tp,
    )
    return MemoryPrediction(
        parts=(
            MemoryPart("CUDA context", CUDA_CONTEXT_BYTES, "estimate"),
            MemoryPart("weights", weight_bytes, "checkpoint"),
            MemoryPart("KV cache", pool.reserved_bytes, "TurboMind's arithmetic"),
            MemoryPart("buffers", _buffer_bytes(model, settings), "estimate from LMDeploy's sources"),
        ),
        pool=pool,
        free_before_bytes=free_bytes,
        sequences=pool.sequences(settings.session_len),
    )


def predict_in_order(
    engines: Iterable[tuple[ModelSizes, MemorySettings]], free_bytes: int
) -> tuple[MemoryPrediction, ...]:
    """Several engines on one GPU: each takes its ratio of what the ones loaded before it left free."""
    predictions: list[MemoryPrediction] = []
    for model, settings in engines:
        predictions.append(predict(model, settings, free_bytes))
        free_bytes = max(0, predictions[-1].headroom_bytes)
    return tuple(predictions)


def largest_ratio(model: ModelSizes, settings: MemorySettings, free_bytes: int) -> float | None:
    """The KV ratio at which nothing would stay free: the out-of-memory line. None if no ratio fits."""
    free_after_weights = free_bytes - CUDA_CONTEXT_BYTES - model.weight_bytes // settings.tp
    left = free_after_weights - _buffer_bytes(model, settings)
    return left / free_after_weights if left > 0 else None


def weight_bytes_16_bit(parameters: int) -> int:
    """Weights in float16 or bfloat16, whatever the checkpoint holds."""
    return parameters * _BYTES_16_BIT


def weight_bytes_awq(parameters: int, embedding_parameters: int) -> int:
    """W4A16 weights; embeddings and output head stay in 16 bits."""
    linear = parameters - embedding_parameters
    return int(linear * _AWQ_BYTES_PER_WEIGHT) + embedding_parameters * _BYTES_16_BIT


def _buffer_bytes(model: ModelSizes, settings: MemorySettings) -> int:
    """Activations of one forward pass, logits, and the workspaces of attention and GEMM.

    The pass holds, for each token, the residual stream and its norm, queries, keys and values with the
    attention's output, and both halves of the gated FFN. The workspaces are constants of TurboMind's sources:
    4,096 float32 partial results of attention for each head, 33 MiB for GEMM and 32 MiB for its tensor maps.
    """
    head_dim, tp = model.kv.head_dim, settings.tp
    tokens = _PREFILL_TOKENS + settings.max_batch_size
    attention = (2 * model.heads + 2 * model.kv.kv_heads) * head_dim // tp
    width = 3 * model.hidden_size + attention + 2 * model.intermediate_size // tp
    activations = tokens * width * _BYTES_16_BIT
    logits = settings.max_batch_size * model.vocab_size * (_BYTES_16_BIT + 4)
    partials = _ATTENTION_PARTIALS * model.heads // tp * head_dim * 4
    return activations + logits + partials + _GEMM_WORKSPACE_BYTES
