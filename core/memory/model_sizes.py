"""From a model to the sizes that decide an engine's memory: checkpoints here, and common models by name.

The dimensions of the common models are those of their published config.json files on the Hugging Face hub.
"""

from dataclasses import dataclass

from core.domain.specs import EngineKind
from core.memory.kv_cache import KvShape, refuse_unless_plain_attention
from core.memory.prediction import ModelSizes, weight_bytes_16_bit, weight_bytes_awq
from core.models.checkpoint import CheckpointFacts

_BYTES_OF_DTYPE = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimensions:
    """A dense decoder model with gated FFN, by its published dimensions."""

    name: str
    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    intermediate_size: int
    vocab_size: int
    tie_word_embeddings: bool = False
    head_dim: int | None = None

    @property
    def embedding_parameters(self) -> int:
        return self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)

    @property
    def parameters(self) -> int:
        """Weights of embeddings, attention, FFN and norms; biases, a few thousandths, are left out."""
        attention = 2 * (self.heads + self.kv_heads) * self._head_dim * self.hidden_size
        ffn = 3 * self.hidden_size * self.intermediate_size
        norms = (2 * self.layers + 1) * self.hidden_size
        return self.embedding_parameters + self.layers * (attention + ffn) + norms

    @property
    def _head_dim(self) -> int:
        return self.head_dim or self.hidden_size // self.heads

    def sizes(self, *, awq: bool) -> ModelSizes:
        if awq:
            weight_bytes = weight_bytes_awq(self.parameters, self.embedding_parameters)
        else:
            weight_bytes = weight_bytes_16_bit(self.parameters)
        return ModelSizes(
            weight_bytes=weight_bytes,
            kv=KvShape(layers=self.layers, kv_heads=self.kv_heads, head_dim=self._head_dim),
            heads=self.heads,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            vocab_size=self.vocab_size,
            awq=awq,
        )


def _dimensions(
    name: str,
    layers: int,
    hidden: int,
    heads: int,
    kv_heads: int,
    ffn: int,
    vocab: int,
    *,
    tied: bool = False,
) -> Dimensions:
    return Dimensions(
        name=name,
        layers=layers,
        hidden_size=hidden,
        heads=heads,
        kv_heads=kv_heads,
        intermediate_size=ffn,
        vocab_size=vocab,
        tie_word_embeddings=tied,
    )


COMMON_MODELS = (
    _dimensions("Qwen2.5-0.5B", 24, 896, 14, 2, 4_864, 151_936, tied=True),
    _dimensions("InternLM2-1.8B", 24, 2_048, 16, 8, 8_192, 92_544),
    _dimensions("InternLM2.5-7B", 32, 4_096, 32, 8, 14_336, 92_544),
    _dimensions("Qwen2.5-7B", 28, 3_584, 28, 4, 18_944, 152_064),
    _dimensions("Llama-2-7B", 32, 4_096, 32, 32, 11_008, 32_000),
    _dimensions("Llama-3.1-8B", 32, 4_096, 32, 8, 14_336, 128_256),
    _dimensions("Qwen2.5-14B", 48, 5_120, 40, 8, 13_824, 152_064),
    _dimensions("InternLM2.5-20B", 48, 6_144, 48, 8, 16_384, 92_544),
    _dimensions("Qwen2.5-32B", 64, 5_120, 40, 8, 27_648, 152_064),
    _dimensions("Llama-3.1-70B", 80, 8_192, 64, 8, 28_672, 128_256),
    _dimensions("Qwen2.5-72B", 80, 8_192, 64, 8, 29_568, 152_064),
)


def checkpoint_sizes(facts: CheckpointFacts, *, awq: bool) -> ModelSizes:
    """A checkpoint as TurboMind loads it: in 16 bits, quantised as it is, or `awq` as if it were quantised.

    Raises InputError (`kv-arithmetic-unknown`) for a model whose KV cache is laid out otherwise.
    """
    refuse_unless_plain_attention(
        facts.architecture,
        is_mla=facts.is_mla,
        is_hybrid=facts.is_hybrid,
        sliding_window=facts.sliding_window,
    )
    return ModelSizes(
        weight_bytes=_turbomind_weight_bytes(facts, awq=awq),
        kv=KvShape(layers=facts.layers, kv_heads=facts.kv_heads, head_dim=facts.head_dim),
        heads=facts.heads,
        hidden_size=facts.hidden_size,
        intermediate_size=facts.intermediate_size,
        vocab_size=facts.vocab_size,
        awq=awq or facts.quantization == "awq",
    )


def loaded_weight_bytes(facts: CheckpointFacts, kind: EngineKind, dtype: str) -> int:
    """A checkpoint's weights in an engine's memory; LMDeploy computes in 16 bits only."""
    if kind is not EngineKind.TRANSFORMERS:
        return _turbomind_weight_bytes(facts, awq=False)
    if facts.parameters is None or facts.quantization is not None or dtype not in _BYTES_OF_DTYPE:
        return facts.weight_bytes
    return facts.parameters * _BYTES_OF_DTYPE[dtype]


def _turbomind_weight_bytes(facts: CheckpointFacts, *, awq: bool) -> int:
    if facts.quantization is not None or facts.parameters is None:
        return facts.weight_bytes
    if awq:
        return weight_bytes_awq(facts.parameters, facts.embedding_parameters)
    return weight_bytes_16_bit(facts.parameters)
