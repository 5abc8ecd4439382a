"""The sizes that decide an engine's memory: of checkpoints on disk, and of common models by name.

The dimensions of the common models are those of their published config.json files on the Hugging Face hub.
"""

from dataclasses import dataclass

from core.errors import InputError
from core.i18n import N_
from core.memory.kv_cache import KvShape, refuse_unless_plain_attention
from core.memory.prediction import ModelSizes, weight_bytes_16_bit, weight_bytes_awq
from core.models.checkpoint import CheckpointFacts, facts_of_config, read_sizes
from core.models.lmdeploy_support import LmdeploySupport, lmdeploy_support
from core.models.model_config import ModelConfig
from core.models.quantization import AWQ


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
