import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import InputError
from core.memory.prediction import (
    BLOCK_TOKENS,
    KV_BITS,
    KvShape,
    kv_bytes_per_token,
    kv_is_reserved,
    kv_pool,
    read_kv_log,
    refuse_unless_plain_attention,
    weights_are_loaded,
)
from core.models.model_config import Attention, AttentionKind

GIB = 2**30
QWEN2_5_7B = KvShape(layers=28, kv_heads=4, head_dim=128)
LLAMA_3_8B = KvShape(layers=32, kv_heads=8, head_dim=128)
LLAMA_2_7B = KvShape(layers=32, kv_heads=32, head_dim=128)


@pytest.mark.parametrize(
    ("shape", "bytes_per_token", "tokens"),
    [
        (QWEN2_5_7B, (57_344, 29_568, 15_232), (117_504, 221_952, 443_904)),
        (LLAMA_3_8B, (131_072, 67_584, 34_816), (52_224, 97_920, 195_840)),
        (LLAMA_2_7B, (524_288, 270_336, 139_264), (13_056, 24_000, 48_960)),
    ],
)
def test_tokens_in_6_4_gib_by_turbomind_s_own_arithmetic(shape, bytes_per_token, tokens):
    budget = int(6.4 * GIB)
    assert tuple(kv_bytes_per_token(shape, kv_bits=bits) for bits in KV_BITS) == bytes_per_token
    assert tuple(kv_pool(shape, budget, kv_bits=bits).tokens for bits in KV_BITS) == tokens


def test_slabs_grow_until_little_of_them_is_left_over():
    pool = kv_pool(LLAMA_2_7B, 6 * GIB, kv_bits=8)
    assert pool.block_bytes == 270_336 * 64
    assert pool.slab_bytes == 256 * 2**20
    assert pool.slab_bytes // pool.block_bytes * pool.block_bytes / pool.slab_bytes >= 0.95


def test_sequences_take_whole_blocks():
    pool = kv_pool(LLAMA_3_8B, GIB)
    assert pool.blocks == 128
    assert pool.sequences(BLOCK_TOKENS) == 128
    assert pool.sequences(BLOCK_TOKENS + 1) == 64
    assert pool.sequences(10**6) == 0
    with pytest.raises(InputError):
        pool.sequences(0)


def test_tensor_parallelism_shares_the_heads_and_copies_them_when_there_are_too_few():
    whole = kv_bytes_per_token(QWEN2_5_7B)
    assert kv_bytes_per_token(QWEN2_5_7B, tp=2) == whole // 2
    assert kv_bytes_per_token(QWEN2_5_7B, tp=4) == whole // 4
    assert kv_bytes_per_token(QWEN2_5_7B, tp=8) == whole // 4
    with pytest.raises(InputError, match="Can't divide"):
        kv_bytes_per_token(QWEN2_5_7B, tp=3)


def test_other_widths_than_turbomind_s_are_refused():
    with pytest.raises(InputError, match="2 bits"):
        kv_bytes_per_token(QWEN2_5_7B, kv_bits=2)


def test_no_budget_holds_nothing():
    assert kv_pool(LLAMA_3_8B, 0).tokens == 0
    assert kv_pool(LLAMA_3_8B, -5).reserved_bytes == 0


def test_models_with_another_cache_are_refused_with_the_reason():
    latent = Attention(AttentionKind.LATENT, "it caches a compressed form (MLA)")
    with pytest.raises(InputError, match=r"KV cache of SomeForCausalLM: it caches .*MLA") as caught:
        refuse_unless_plain_attention("SomeForCausalLM", latent)
    assert caught.value.code == "kv-arithmetic-unknown"


def test_a_plain_model_is_not_refused():
    refuse_unless_plain_attention("LlamaForCausalLM", Attention(AttentionKind.PLAIN))


@given(
    shape=st.builds(
        KvShape,
        layers=st.integers(1, 80),
        kv_heads=st.sampled_from([1, 2, 4, 8, 32]),
        head_dim=st.sampled_from([64, 80, 96, 128, 256]),
    ),
    budget=st.integers(0, 140 * GIB),
    bits=st.sampled_from(KV_BITS),
)
def test_a_pool_never_promises_more_than_was_reserved(shape, budget, bits):
    pool = kv_pool(shape, budget, kv_bits=bits)
    assert pool.usable_bytes <= pool.reserved_bytes
    larger = kv_pool(shape, budget + GIB, kv_bits=bits)
    assert larger.tokens >= pool.tokens


MIB = 2**20
BUDGET = (
    "[TM][INFO][1122.14:37:15.641964][turbomind.cc:319] Object cache budget: 25600.00 MB "
    "from free 64000.00 MB and ratio 0.400\n"
)
SLAB = "[TM][WARN][slab.h:101] slab_size 33554432, object_size 6291456, object_count 5, ratio 0.9375\n"


def test_a_turbomind_log_tells_reserved_memory_and_layout():
    log = read_kv_log(f"Loading: 100%|██████| 24/24\r{BUDGET}{SLAB}Warm-up finished in 3.10 seconds.\n")
    assert (log.reserved_bytes, log.free_bytes, log.ratio) == (25600 * MIB, 64000 * MIB, 0.4)
    assert (log.slab_bytes, log.block_bytes, log.blocks_per_slab) == (32 * MIB, 6 * MIB, 5)
    assert log.tokens == 800 * 5 * 64


def test_its_tokens_are_those_of_the_arithmetic():
    shape = KvShape(layers=24, kv_heads=8, head_dim=128)
    pool = kv_pool(shape, 20_000 * MIB)
    slab, block = pool.slab_bytes, pool.block_bytes
    log = read_kv_log(
        "Object cache budget: 20000.00 MB from free 50000.00 MB and ratio 0.400\n"
        f"slab_size {slab}, object_size {block}, object_count {slab // block}, ratio 0.98\n"
    )
    assert log.tokens == pool.tokens


def test_without_a_layout_or_with_several_the_tokens_are_unknown():
    assert read_kv_log(BUDGET).tokens is None
    assert read_kv_log(BUDGET + SLAB + SLAB.replace("6291456", "8388608")).tokens is None
    assert read_kv_log(BUDGET + SLAB + SLAB).tokens is not None


def test_the_words_of_newer_versions_are_understood():
    log = read_kv_log(BUDGET.replace("from free", "from cacheable"))
    assert log.free_bytes == 64000 * MIB


def test_a_log_without_those_lines_tells_nothing():
    assert read_kv_log("INFO:     Uvicorn running on http://127.0.0.1:1\n") is None


@pytest.mark.parametrize(
    ("line", "loaded"),
    [
        ("Loading weights from safetensors: 50%|███   | 1/2", False),
        ("Loading weights from safetensors: 100%|██████| 2/2", True),
        ("Loading checkpoint shards: 100%|██████████| 1/1", True),
        (BUDGET, True),
        ("", False),
    ],
)
def test_when_the_weights_are_there(line, loaded):
    assert weights_are_loaded(line) is loaded


def test_when_the_kv_cache_is_there():
    assert kv_is_reserved(BUDGET + SLAB)
    assert not kv_is_reserved(BUDGET)
