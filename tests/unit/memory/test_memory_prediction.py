from dataclasses import replace

import pytest

from core.errors import InputError
from core.memory.prediction import (
    CUDA_CONTEXT_BYTES,
    KvShape,
    MemorySettings,
    ModelSizes,
    largest_ratio,
    predict,
    predict_in_order,
    weight_bytes_16_bit,
    weight_bytes_awq,
)

GIB = 2**30
PARAMETERS, EMBEDDINGS = 1_889_110_016, 2 * 92_544 * 2_048


def internlm2_1_8b(weight_bytes):
    return ModelSizes(
        weight_bytes=weight_bytes,
        kv=KvShape(layers=24, kv_heads=8, head_dim=128),
        heads=16,
        hidden_size=2_048,
        intermediate_size=8_192,
        vocab_size=92_544,
    )


FP16 = internlm2_1_8b(weight_bytes_16_bit(PARAMETERS))
AWQ = internlm2_1_8b(weight_bytes_awq(PARAMETERS, PARAMETERS - EMBEDDINGS))


def test_weights_of_a_1_8b_model_as_they_are_on_disk():
    assert FP16.weight_bytes / GIB == pytest.approx(3.52, abs=0.02)
    assert AWQ.weight_bytes / GIB == pytest.approx(1.45, abs=0.03)


@pytest.mark.parametrize(("model", "process_gib"), [(FP16, 34.8), (AWQ, 33.6)])
def test_the_prediction_agrees_with_what_an_h100_showed(model, process_gib):
    """`lmdeploy.pipeline`, KV ratio 0.4, on an empty H100: the driver's figure for the process."""
    settings = MemorySettings(cache_max_entry_count=0.4, max_batch_size=64)
    prediction = predict(model, settings, int(79.1 * GIB))
    assert prediction.total_bytes / GIB == pytest.approx(process_gib, rel=0.02)
    assert prediction.fits


def test_the_cache_is_a_share_of_what_the_weights_leave():
    prediction = predict(FP16, MemorySettings(cache_max_entry_count=0.5), 20 * GIB)
    free_after_weights = 20 * GIB - CUDA_CONTEXT_BYTES - FP16.weight_bytes
    assert prediction.pool.reserved_bytes == free_after_weights // 2
    assert prediction.total_bytes + prediction.headroom_bytes == 20 * GIB


def test_what_awq_saves_in_weights_becomes_tokens():
    settings = MemorySettings(cache_max_entry_count=0.8)
    plain, awq = (predict(model, settings, 23 * GIB) for model in (FP16, AWQ))
    assert awq.pool.tokens > plain.pool.tokens
    saved = FP16.weight_bytes - AWQ.weight_bytes
    assert plain.total_bytes - awq.total_bytes == pytest.approx(0.2 * saved, rel=0.01)


def test_an_engine_that_does_not_fit_has_negative_headroom():
    prediction = predict(FP16, MemorySettings(cache_max_entry_count=0.9), 4 * GIB)
    assert prediction.headroom_bytes < 0
    assert not prediction.fits
    assert not prediction.holds_a_session


def test_engines_on_one_gpu_take_their_ratio_of_what_is_left():
    settings = MemorySettings(cache_max_entry_count=0.4)
    first, second = predict_in_order([(FP16, settings), (AWQ, settings)], 79 * GIB)
    assert second.free_before_bytes == first.headroom_bytes
    assert second.pool.reserved_bytes < first.pool.reserved_bytes


def test_a_context_longer_than_the_cache_is_noticed():
    settings = MemorySettings(cache_max_entry_count=0.05, session_len=100_000)
    assert not predict(FP16, settings, 8 * GIB).holds_a_session


@pytest.mark.parametrize("ratio", [0, 1, 1.5, -0.1])
def test_a_ratio_that_lmdeploy_aborts_on_is_refused(ratio):
    with pytest.raises(InputError, match="KV cache ratio"):
        MemorySettings(cache_max_entry_count=ratio)


def test_the_out_of_memory_line_is_where_nothing_stays_free():
    settings = MemorySettings(cache_max_entry_count=0.4)
    line = largest_ratio(FP16, settings, 24 * GIB)
    assert predict(FP16, replace(settings, cache_max_entry_count=line - 0.01), 24 * GIB).fits
    assert not predict(FP16, replace(settings, cache_max_entry_count=line + 0.01), 24 * GIB).fits


def test_no_ratio_helps_a_model_that_is_larger_than_the_gpu():
    assert largest_ratio(FP16, MemorySettings(cache_max_entry_count=0.4), 2 * GIB) is None
