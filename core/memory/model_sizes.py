"""The sizes that decide an engine's memory: of checkpoints on disk and lanes' weights, of common models and
GPUs by name.

The dimensions of the common models are those of their published config.json files on the Hugging Face hub. A
common GPU's `total_bytes` is what `nvidia-smi` shows as the card's memory, a little less than its name says
where error correction takes a share.
"""

from dataclasses import dataclass
from pathlib import Path

from core.domain.specs import EngineKind, LaneSpec, Weights
from core.errors import InputError
from core.i18n import N_
from core.memory.prediction import (
    KvShape,
    ModelSizes,
    refuse_unless_plain_attention,
    weight_bytes_16_bit,
    weight_bytes_awq,
)
from core.models.checkpoint import (
    CheckpointFacts,
    LmdeploySupport,
    facts_of_config,
    lmdeploy_support,
    read_sizes,
    read_weights,
)
from core.models.model_config import ModelConfig
from core.models.weight_files import AWQ, WeightFacts, read_gguf_header

_MIB = 2**20

DRIVER_RESERVED_BYTES = 600 * _MIB
"""Kept by the driver for itself, roughly; NVML gives the exact figure of a GPU that is here."""
_BYTES_16_BIT = 2
_BYTES_OF_DTYPE = {"float32": 4, "float16": 2, "bfloat16": 2}
_GGUF_BYTES = _BYTES_OF_DTYPE["float32"]
"""What transformers unpacks a GGUF file's weights to, unless the lane names a dtype."""


@dataclass(frozen=True, slots=True)
class CommonModel:
    """A model by its published dimensions."""

    name: str
    facts: CheckpointFacts


def _llama_like(
    name: str,
    layers: int,
    hidden: int,
    heads: int,
    kv_heads: int,
    ffn: int,
    vocab: int,
    *,
    tied: bool = False,
) -> CommonModel:
    """A dense decoder model with gated FFN."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": ffn,
        "vocab_size": vocab,
        "tie_word_embeddings": tied,
    }
    return CommonModel(name, facts_of_config(ModelConfig(config, name)))


COMMON_MODELS = (
    _llama_like("Qwen2.5-0.5B", 24, 896, 14, 2, 4_864, 151_936, tied=True),
    _llama_like("InternLM2-1.8B", 24, 2_048, 16, 8, 8_192, 92_544),
    _llama_like("InternLM2.5-7B", 32, 4_096, 32, 8, 14_336, 92_544),
    _llama_like("Qwen2.5-7B", 28, 3_584, 28, 4, 18_944, 152_064),
    _llama_like("Llama-2-7B", 32, 4_096, 32, 32, 11_008, 32_000),
    _llama_like("Llama-3.1-8B", 32, 4_096, 32, 8, 14_336, 128_256),
    _llama_like("Qwen2.5-14B", 48, 5_120, 40, 8, 13_824, 152_064),
    _llama_like("InternLM2.5-20B", 48, 6_144, 48, 8, 16_384, 92_544),
    _llama_like("Qwen2.5-32B", 64, 5_120, 40, 8, 27_648, 152_064),
    _llama_like("Llama-3.1-70B", 80, 8_192, 64, 8, 28_672, 128_256),
    _llama_like("Qwen2.5-72B", 80, 8_192, 64, 8, 29_568, 152_064),
)


def facts_to_predict(checkpoint: str) -> CheckpointFacts:
    """Of a folder, a config.json, or a downloaded hub id; the weights themselves needn't be there.

    Raises InputError like `read_sizes`.
    """
    try:
        return read_sizes(checkpoint)
    except InputError as error:
        if error.code != "model-not-here":
            raise
        hint = N_(
            "Check the path. For a hub ID, `hf download {name} config.json` is enough for a prediction.",
            name=checkpoint,
        )
        raise InputError(error.message, hint=hint, code=error.code) from error


def checkpoint_sizes(
    facts: CheckpointFacts, *, awq: bool, support: LmdeploySupport | None = None
) -> ModelSizes:
    """A checkpoint as TurboMind loads it: in 16 bits, quantised as it is, or `awq` as if it were quantised.

    `support` defaults to the installed LMDeploy's.

    Raises InputError: `kv-arithmetic-unknown` for a model whose KV cache is laid out otherwise,
    `turbomind-unsupported` for one that the LMDeploy here doesn't serve with TurboMind.
    """
    refuse_unless_plain_attention(facts.architecture, facts.attention)
    support = support or lmdeploy_support()
    if support is not None and facts.architecture not in support.turbomind:
        raise InputError(
            N_(
                "TurboMind of LMDeploy {version} doesn't support {architecture}.",
                version=support.version,
                architecture=facts.architecture,
            ),
            hint=N_("Start the model with another engine and measure its memory instead."),
            code="turbomind-unsupported",
        )
    return ModelSizes(
        weight_bytes=_turbomind_weight_bytes(facts, awq=awq),
        kv=KvShape(layers=facts.layers, kv_heads=facts.kv_heads, head_dim=facts.head_dim),
        heads=facts.heads,
        hidden_size=facts.hidden_size,
        intermediate_size=facts.intermediate_size,
        vocab_size=facts.vocab_size,
        awq=awq or facts.quantization == AWQ,
        counted=facts.counted,
    )


def _turbomind_weight_bytes(facts: CheckpointFacts, *, awq: bool) -> int:
    if facts.quantized is not None or facts.parameters is None:
        return facts.weight_bytes
    if awq:
        return weight_bytes_awq(facts.parameters, facts.linear_parameters)
    return weight_bytes_16_bit(facts.parameters)


@dataclass(frozen=True, slots=True)
class GpuSize:
    """A kind of GPU by its memory."""

    name: str
    total_bytes: int

    @property
    def free_bytes(self) -> int:
        """Free memory of an empty GPU."""
        return self.total_bytes - DRIVER_RESERVED_BYTES


COMMON_GPUS = (
    GpuSize("8 GB · RTX 4060", 8_188 * _MIB),
    GpuSize("12 GB · RTX 4070", 12_282 * _MIB),
    GpuSize("16 GB · RTX 4080, T4, V100", 16_376 * _MIB),
    GpuSize("24 GB · RTX 4090, A10, L4", 24_564 * _MIB),
    GpuSize("32 GB · RTX 5090", 32_607 * _MIB),
    GpuSize("40 GB · A100", 40_960 * _MIB),
    GpuSize("48 GB · L40S, A6000", 49_140 * _MIB),
    GpuSize("80 GB · A100, H100", 81_559 * _MIB),
    GpuSize("141 GB · H200", 143_771 * _MIB),
)


def lane_weight_bytes(lane: LaneSpec) -> int | None:
    """Over all GPUs that the engine spans. None for remote lanes, and for files that can't be read here.

    Reads file headers, which need none of the sizes in config.json.
    """
    path = lane.model.path(lane.weights) if lane.model else None
    if path is None:
        return None
    try:
        if lane.weights is Weights.GGUF:
            return gguf_weight_bytes(Path(path).expanduser(), lane.settings.dtype)
        return loaded_weight_bytes(read_weights(path), lane.kind, lane.settings.dtype)
    except InputError:
        return None


def gguf_weight_bytes(path: Path, dtype: str) -> int:
    """A GGUF file's weights once transformers has unpacked them. Raises InputError (`model-unreadable`)."""
    return read_gguf_header(path).parameters * _BYTES_OF_DTYPE.get(dtype, _GGUF_BYTES)


def loaded_weight_bytes(weights: WeightFacts, kind: EngineKind, dtype: str) -> int:
    """A checkpoint's weights in an engine's memory; LMDeploy computes in 16 bits only."""
    if weights.parameters is None or weights.quantized is not None:
        return weights.size_bytes
    if kind is not EngineKind.TRANSFORMERS:
        return weights.parameters * _BYTES_16_BIT
    return weights.parameters * _BYTES_OF_DTYPE[dtype] if dtype in _BYTES_OF_DTYPE else weights.size_bytes
