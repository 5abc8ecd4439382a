from core.telemetry.attribution import NO_TOTAL, NOT_SEEN_BEFORE, Attribution
from core.telemetry.gpus import GpuReading, ProcessMemory
from core.telemetry.samples import EngineProcess, MemorySource

GIB = 2**30
HF = EngineProcess(name="hf", pid=10)
TURBOMIND = EngineProcess(name="turbomind", pid=20)
AWQ = EngineProcess(name="awq", pid=30)


def gpu(used_gib, processes=(), index=0):
    listed = (
        None
        if processes is None
        else tuple(
            ProcessMemory(pid=pid, used_bytes=size and int(size * GIB))
            for pid, size in dict(processes).items()
        )
    )
    return GpuReading(
        index=index,
        name="H100",
        used_bytes=None if used_gib is None else int(used_gib * GIB),
        processes=listed,
    )


def trees(*engines):
    return {engine: frozenset({engine.pid, engine.pid + 1}) for engine in engines}


def shares(attribution, reading, *engines):
    found = attribution.attribute((reading,), trees(*engines))
    return {
        name: [(share.used_bytes and share.used_bytes / GIB, share.source) for share in parts]
        for name, parts in found.items()
    }


def test_the_driver_s_figures_are_added_up_over_the_process_tree():
    reading = gpu(30, {20: 1, 21: 19, 999: 8})
    assert shares(Attribution(), reading, TURBOMIND) == {"turbomind": [(20, MemorySource.PROCESSES)]}


def test_where_the_driver_names_our_processes_an_engine_it_omits_has_no_memory():
    attribution = Attribution()
    shares(attribution, gpu(20, {20: 19}), TURBOMIND)
    found = shares(attribution, gpu(30, {20: 19}), TURBOMIND, HF)
    assert found == {"turbomind": [(19, MemorySource.PROCESSES)], "hf": []}


def test_without_process_figures_an_engine_has_what_the_gpu_grew_by():
    attribution = Attribution()
    shares(attribution, gpu(2))
    shares(attribution, gpu(2), TURBOMIND)
    assert shares(attribution, gpu(22), TURBOMIND) == {"turbomind": [(20, MemorySource.DIFFERENCE)]}


def test_each_engine_keeps_its_own_growth_when_another_is_loaded_after_it():
    attribution = Attribution()
    for reading, engines in (
        (gpu(2), ()),
        (gpu(2), (HF,)),
        (gpu(6), (HF,)),
        (gpu(6), (HF, TURBOMIND)),
        (gpu(36), (HF, TURBOMIND)),
    ):
        found = shares(attribution, reading, *engines)
    assert found == {"hf": [(4, MemorySource.DIFFERENCE)], "turbomind": [(30, MemorySource.DIFFERENCE)]}


def test_stopping_an_earlier_engine_leaves_the_later_ones_their_share():
    attribution = Attribution()
    for reading, engines in (
        (gpu(2), ()),
        (gpu(2), (HF,)),
        (gpu(6), (HF,)),
        (gpu(6), (HF, TURBOMIND)),
        (gpu(36), (HF, TURBOMIND)),
        (gpu(32), (TURBOMIND,)),
        (gpu(32), (TURBOMIND, AWQ)),
        (gpu(37), (TURBOMIND, AWQ)),
    ):
        found = shares(attribution, reading, *engines)
    assert found == {"turbomind": [(30, MemorySource.DIFFERENCE)], "awq": [(5, MemorySource.DIFFERENCE)]}


def test_a_restarted_engine_begins_anew():
    attribution = Attribution()
    again = EngineProcess(name="hf", pid=50)
    for reading, engines in ((gpu(2), ()), (gpu(2), (HF,)), (gpu(6), (HF,)), (gpu(2), (again,))):
        shares(attribution, reading, *engines)
    assert shares(attribution, gpu(5), again) == {"hf": [(3, MemorySource.DIFFERENCE)]}


def test_an_engine_that_was_there_before_measuring_has_an_unknown_share():
    attribution = Attribution()
    found = attribution.attribute((gpu(30, None),), trees(TURBOMIND))["turbomind"]
    assert found[0].used_bytes is None
    assert found[0].reason == NOT_SEEN_BEFORE


def test_processes_without_sizes_fall_back_to_the_difference():
    attribution = Attribution()
    shares(attribution, gpu(1, {4: None}))
    shares(attribution, gpu(1, {4: None}), HF)
    assert shares(attribution, gpu(5, {10: None}), HF) == {"hf": [(4, MemorySource.DIFFERENCE)]}


def test_a_gpu_that_stops_answering_gives_a_reason_and_then_the_share_again():
    attribution = Attribution()
    shares(attribution, gpu(2))
    shares(attribution, gpu(2), HF)
    gap = attribution.attribute((gpu(None, None),), trees(HF))["hf"][0]
    assert (gap.used_bytes, gap.reason) == (None, NO_TOTAL)
    assert shares(attribution, gpu(6), HF) == {"hf": [(4, MemorySource.DIFFERENCE)]}


def test_an_engine_placed_elsewhere_gets_none_of_this_gpu_s_growth():
    attribution = Attribution()
    on_cpu = EngineProcess(name="cpu", pid=10, gpus=())
    on_second = EngineProcess(name="second", pid=20, gpus=(1,))
    both = (gpu(2), gpu(2, index=1))
    attribution.attribute(both, trees())
    attribution.attribute(both, trees(on_cpu, on_second))
    found = attribution.attribute((gpu(9), gpu(5, index=1)), trees(on_cpu, on_second))
    assert found["cpu"] == ()
    assert [(share.gpu, share.used_bytes) for share in found["second"]] == [(1, 3 * GIB)]
