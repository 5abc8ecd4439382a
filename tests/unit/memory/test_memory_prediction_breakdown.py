from core.memory.prediction import KvLog, Part, split_memory

GIB = 2**30
KV = KvLog(reserved_bytes=20 * GIB, free_bytes=70 * GIB, ratio=0.4)


def sizes(parts):
    return {part.part: part.size_bytes for part in parts}


def test_a_turbomind_engine_with_everything_known():
    parts = split_memory(
        26 * GIB, weight_bytes=4 * GIB, free_before_bytes=75 * GIB, kv=KV, kv_used_ratio=0.25
    )
    assert sizes(parts) == {
        Part.BASELINE: 1 * GIB,
        Part.WEIGHTS: 4 * GIB,
        Part.KV_IN_USE: 5 * GIB,
        Part.KV_FREE: 15 * GIB,
        Part.REST: 1 * GIB,
    }
    assert all(part.source for part in parts)


def test_without_metrics_the_reserved_cache_stays_whole():
    assert sizes(split_memory(26 * GIB, weight_bytes=4 * GIB, kv=KV))[Part.KV_RESERVED] == 20 * GIB


def test_what_is_not_known_stays_unknown_and_is_in_the_rest():
    parts = sizes(split_memory(5 * GIB, weight_bytes=4 * GIB))
    assert parts[Part.BASELINE] is None
    assert parts[Part.KV_RESERVED] is None
    assert parts[Part.REST] == 1 * GIB


def test_without_a_total_there_is_no_rest():
    parts = sizes(split_memory(None, weight_bytes=4 * GIB))
    assert (parts[Part.WEIGHTS], parts[Part.REST]) == (4 * GIB, None)


def test_a_figure_beyond_its_bounds_makes_no_negative_part():
    parts = sizes(
        split_memory(3 * GIB, weight_bytes=4 * GIB, free_before_bytes=71 * GIB, kv=KV, kv_used_ratio=1.2)
    )
    assert parts[Part.KV_FREE] == parts[Part.REST] == parts[Part.BASELINE] == 0
