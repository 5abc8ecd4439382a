import pytest

from core.memory.kv_cache import KvShape, kv_pool
from core.memory.kv_log import kv_is_reserved, read_kv_log, weights_are_loaded

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
