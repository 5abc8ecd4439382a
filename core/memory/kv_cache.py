"""TurboMind's division of GPU memory into a KV cache, and how many tokens fit into it.

The arithmetic is TurboMind's own, read in LMDeploy's sources (https://github.com/InternLM/lmdeploy):
`src/turbomind/turbomind.cc` takes `cache_max_entry_count` of the memory that is free after the weights are
loaded; `src/turbomind/memory/page.h`, `slab.h` and `object.cc` divide it into pages of 32 MiB and these into
slabs of equal blocks; a block holds keys and values of 64 tokens in all layers. It holds for decoder models
whose layers all have an ordinary KV cache (MHA, GQA, MQA), not for MLA, sliding windows or linear attention.

Pure functions of plain numbers and texts: it reads no checkpoint and asks no GPU. What TurboMind's start-up
log says about memory is read from lines of LMDeploy 0.18 (`src/turbomind/turbomind.cc`, `memory/slab.h`); the
first is written at TurboMind's level INFO, the second at WARN, and their "MB" are MiB:

    Object cache budget: 26214.40 MB from free 65536.00 MB and ratio 0.400
    slab_size 33554432, object_size 4194304, object_count 8, ratio 1
"""

import re
from dataclasses import dataclass

from core.errors import InputError
from core.i18n import N_
from core.models.architectures import Attention

BLOCK_TOKENS = 64
"""Tokens in a block: LMDeploy's default `cache_block_seq_len`."""
KV_BITS = (16, 8, 4)
PAGE_BYTES = 32 * 2**20
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
    pages = max(0, reserved_bytes) // PAGE_BYTES
    slabs = pages * PAGE_BYTES // slab_bytes
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
    pages = -(-block_bytes // PAGE_BYTES)
    slab = (1 << (pages - 1).bit_length()) * PAGE_BYTES
    while slab // block_bytes * block_bytes / slab < _MIN_SLAB_USE and slab * 2 <= _MAX_SLAB_BYTES:
        slab *= 2
    return slab


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
        slabs = self.reserved_bytes // PAGE_BYTES * PAGE_BYTES // self.slab_bytes
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
