"""Where engines run, and the turns that they take at a device."""

import threading

import pytest

from core.domain.specs import EngineKind
from core.engines.placement import CPU, Need, Place, StartOrder, choose, visible, wants_gpu
from core.errors import EngineLoadFailed, EngineOutOfMemory
from core.telemetry.samples import GpuFacts
from tests.unit.engines.engine_stand_ins import lane_in

GIB = 2**30
TURBOMIND = Need(weight_bytes=4 * GIB, overhead_bytes=2 * GIB, kv_ratio=0.4)


def gpu(index, free_gib, **more):
    free = None if free_gib is None else int(free_gib * GIB)
    return GpuFacts(index=index, name="GPU", total_bytes=80 * GIB, free_bytes=free, **more)


def lane(tmp_path, **settings):
    return lane_in(tmp_path, "tm", EngineKind.TURBOMIND, **settings)


class TestNeed:
    def test_what_is_left_beside_the_kv_cache_must_hold_the_rest(self):
        # 8 GiB free: 4 of weights, 1.6 of the 4 left for KV, 2.4 for 2 of overhead
        assert TURBOMIND.fits(8 * GIB)
        # 7 GiB free: 4 of weights, 1.2 of the 3 left for KV, 1.8 for 2 of overhead
        assert not TURBOMIND.fits(7 * GIB)
        assert not TURBOMIND.fits(3 * GIB)

    def test_engine_without_a_reserved_cache(self):
        need = Need(weight_bytes=4 * GIB, overhead_bytes=GIB, kv_ratio=None)
        assert need.fits(5 * GIB)
        assert not need.fits(5 * GIB - 1)
        assert need.largest_ratio(5 * GIB) is None

    def test_unknown_weights_refuse_nothing(self):
        need = Need(weight_bytes=None, overhead_bytes=GIB, kv_ratio=None)
        assert need.fits(GIB)
        assert not need.fits(GIB - 1)

    def test_largest_ratio_that_fits(self):
        ratio = TURBOMIND.largest_ratio(7 * GIB)
        assert ratio == 0.33
        assert Need(weight_bytes=4 * GIB, overhead_bytes=2 * GIB, kv_ratio=ratio).fits(7 * GIB)
        assert TURBOMIND.largest_ratio(6 * GIB) is None
        assert TURBOMIND.largest_ratio(3 * GIB) is None


class TestChoose:
    def test_replicas_take_gpus_of_their_own(self, tmp_path):
        gpus = [gpu(index, 70) for index in range(5)]
        place = choose(lane(tmp_path, tp=2, replicas=2), TURBOMIND, gpus, held={})
        assert [share.label for share in place.shares(2)] == ["cuda:0,1", "cuda:2,3"]
        with pytest.raises(EngineLoadFailed, match="needs 6 GPUs, but only 5"):
            choose(lane(tmp_path, tp=2, replicas=3), TURBOMIND, gpus, held={})

    def test_two_lanes_that_start_together_get_a_gpu_each(self, tmp_path):
        gpus = [gpu(0, 79), gpu(1, 79)]
        first = choose(lane(tmp_path), TURBOMIND, gpus, held={})
        second = choose(lane(tmp_path), TURBOMIND, gpus, loading=[each.index for each in first.gpus], held={})
        assert (first.label, second.label) == ("cuda:0", "cuda:1")

    def test_unknown_weights_are_a_dash_in_the_refusal(self, tmp_path):
        need = Need(weight_bytes=None, overhead_bytes=2 * GIB, kv_ratio=0.4)
        with pytest.raises(EngineOutOfMemory, match="weights –"):
            choose(lane(tmp_path), need, [gpu(0, 1)], held={})

    def test_most_free_memory_wins(self, tmp_path):
        place = choose(lane(tmp_path), TURBOMIND, [gpu(0, 10), gpu(1, 70), gpu(2, 30)], held={})
        assert place.label == "cuda:1"

    def test_pinned_engine_goes_where_it_is_pinned(self, tmp_path):
        place = choose(lane(tmp_path, devices=(0,)), TURBOMIND, [gpu(0, 10), gpu(1, 70)], held={})
        assert place.label == "cuda:0"

    def test_tensor_parallel_engine_gets_several(self, tmp_path):
        place = choose(lane(tmp_path, tp=2), TURBOMIND, [gpu(0, 60), gpu(1, 10), gpu(2, 70)], held={})
        assert place.label == "cuda:0,2"
        assert place.visible_devices == "0,2"

    def test_unknown_free_memory_does_not_keep_it_out(self, tmp_path):
        assert choose(lane(tmp_path), TURBOMIND, [gpu(0, None)], held={}).label == "cuda:0"

    def test_loading_gpu_is_waited_for_unless_another_has_room(self, tmp_path):
        gpus = [gpu(0, 70), gpu(1, 20)]
        assert choose(lane(tmp_path), TURBOMIND, gpus, loading=[0], held={}).label == "cuda:1"
        assert choose(lane(tmp_path), TURBOMIND, [gpu(0, 70), gpu(1, 2)], loading=[0], held={}) is None

    def test_refusal_names_what_would_have_to_stop_or_shrink(self, tmp_path):
        held = {"hf": ((0,), 5 * GIB), "elsewhere": ((1,), 9 * GIB), "tm": ((0,), GIB)}
        with pytest.raises(EngineOutOfMemory) as caught:
            choose(lane(tmp_path), TURBOMIND, [gpu(0, 7)], held=held)
        assert caught.value.message == (
            "tm doesn't fit on GPU 0, which has 7.00 GiB free: weights 4.00 GiB, "
            "KV cache 1.20 GiB at ratio 0.4, about 2.00 GiB overhead."
        )
        assert caught.value.hint == (
            "Set cache_max_entry_count to 0.33 or less, or stop an engine: hf (5.00 GiB)."
        )

    def test_refusal_without_a_way_of_ours(self, tmp_path):
        with pytest.raises(EngineOutOfMemory) as caught:
            choose(lane(tmp_path), TURBOMIND, [gpu(0, 3)], held={})
        assert "Stop other programs" in caught.value.hint

    def test_gpu_that_is_not_here(self, tmp_path):
        with pytest.raises(EngineLoadFailed, match="GPU 3"):
            choose(lane(tmp_path, devices=(0, 3)), TURBOMIND, [gpu(0, 70)], held={})

    def test_fewer_gpus_than_it_spans(self, tmp_path):
        with pytest.raises(EngineLoadFailed, match="needs 2 GPUs, but only 1"):
            choose(lane(tmp_path, tp=2), TURBOMIND, [gpu(0, 70)], held={})


class TestPlace:
    def test_cpu_hides_the_gpus(self):
        assert (CPU.label, CPU.visible_devices, CPU.torch_device) == ("cpu", "", "cpu")
        assert CPU.lock_names == ("device-cpu",)

    def test_mig_instance_is_named_by_its_uuid(self):
        place = Place((gpu(0, 9, uuid="MIG-1", is_mig=True),))
        assert (place.visible_devices, place.label) == ("MIG-1", "cuda:0")

    def test_engine_counts_its_own_gpus_from_0(self):
        assert Place((gpu(3, 9),)).torch_device == "cuda:0"
        assert Place((gpu(1, 9), gpu(3, 9))).torch_device == "auto"


def test_only_gpus_that_the_environment_leaves_are_used():
    gpus = [gpu(0, 1, uuid="GPU-aaaa"), gpu(1, 1, uuid="GPU-bbbb")]
    assert [g.index for g in visible(gpus, {})] == [0, 1]
    assert [g.index for g in visible(gpus, {"CUDA_VISIBLE_DEVICES": "1"})] == [1]
    assert [g.index for g in visible(gpus, {"CUDA_VISIBLE_DEVICES": "GPU-aa"})] == [0]
    assert visible(gpus, {"CUDA_VISIBLE_DEVICES": ""}) == ()


def test_where_an_engine_wants_to_run(tmp_path):
    here = [gpu(0, 1)]
    assert wants_gpu(lane_in(tmp_path), needs_gpu=False, gpus=here)
    assert not wants_gpu(lane_in(tmp_path, device="cpu"), needs_gpu=False, gpus=here)
    assert not wants_gpu(lane_in(tmp_path), needs_gpu=False, gpus=[])
    with pytest.raises(EngineLoadFailed):
        wants_gpu(lane_in(tmp_path, device="cuda"), needs_gpu=False, gpus=[])


class GaveUp(Exception):
    pass


def give_up() -> None:
    raise GaveUp


def test_the_first_in_line_waits_for_nobody():
    order = StartOrder()
    first, _ = order.join(), order.join()

    order.wait(first, give_up)


def test_others_wait_until_the_first_stands_aside():
    order = StartOrder()
    first, second = order.join(), order.join()
    with pytest.raises(GaveUp):
        order.wait(second, give_up)
    passed = threading.Event()
    thread = threading.Thread(target=lambda: (order.wait(second, lambda: None), passed.set()))
    thread.start()

    order.stand_aside(first)

    assert passed.wait(10)
    thread.join()


def test_one_that_comes_back_is_first_again():
    order = StartOrder()
    first, second = order.join(), order.join()
    order.stand_aside(first)
    order.wait(second, give_up)

    order.return_to(first)

    with pytest.raises(GaveUp):
        order.wait(second, give_up)
