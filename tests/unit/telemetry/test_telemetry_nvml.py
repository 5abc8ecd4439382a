import threading

import pynvml
import pytest

from core.telemetry.nvml import Nvml
from tests.unit.telemetry.fake_nvml import GIB, FakeGpu, FakeNvml, process


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def clock():
    return Clock()


def open_nvml(clock, *gpus):
    library = FakeNvml(*gpus)
    return library, Nvml(library, clock=clock, retry_s=5.0)


def test_a_healthy_gpu_is_read_in_base_units(clock):
    gpu = FakeGpu(processes=[process(4711, 3 * GIB)])
    _, nvml = open_nvml(clock, gpu)
    reading = nvml.readings()[0]
    assert (reading.used_bytes, reading.total_bytes) == (10 * GIB, 80 * GIB)
    assert (reading.utilisation_ratio, reading.power_w, reading.energy_j) == (0.5, 300.0, 5000.0)
    assert (reading.temperature_c, reading.sm_clock_hz, reading.memory_clock_hz) == (41, 1.98e9, 2.619e9)
    assert reading.throttle_reasons == ()
    assert [(p.pid, p.used_bytes) for p in reading.processes] == [(4711, 3 * GIB)]
    assert nvml.problem() is None
    assert nvml.driver_version() == "580.95.05"
    assert nvml.cuda_version() == (13, 1)


def test_devices_name_what_placing_an_engine_needs(clock):
    _, nvml = open_nvml(clock, FakeGpu(uuid="GPU-a"), FakeGpu(uuid="GPU-b", used=70 * GIB))
    first, second = nvml.devices()
    assert (first.index, first.uuid, first.compute_capability) == (0, "GPU-a", (9, 0))
    assert (second.index, second.uuid) == (1, "GPU-b")
    assert second.free_bytes == 9.5 * GIB
    assert second.used_bytes == 70 * GIB


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, "no-nvidia-driver"),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, "driver-not-loaded"),
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, "driver-mismatch"),
        (pynvml.NVML_ERROR_UNKNOWN, "driver-failed"),
        (pynvml.NVML_ERROR_OPERATING_SYSTEM, "driver-failed"),
    ],
)
def test_a_driver_that_does_not_open_is_a_reason_and_no_devices(clock, error, code):
    library, nvml = open_nvml(clock, FakeGpu())
    library.init_error = error
    assert nvml.devices() == ()
    assert nvml.readings() == ()
    assert nvml.driver_version() is None
    assert nvml.cuda_version() is None
    assert nvml.problem().code == code
    assert nvml.problem().hint


def test_the_driver_is_asked_again_only_after_a_while(clock):
    library, nvml = open_nvml(clock, FakeGpu())
    library.init_error = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
    for _ in range(10):
        assert nvml.readings() == ()
    assert library.inits == 1
    library.init_error = None
    clock.now_s += 5.1
    assert len(nvml.readings()) == 1
    assert nvml.problem() is None


@pytest.mark.parametrize(
    ("query", "figure"),
    [
        ("nvmlDeviceGetPowerUsage", "power_w"),
        ("nvmlDeviceGetTotalEnergyConsumption", "energy_j"),
        ("nvmlDeviceGetTemperature", "temperature_c"),
        ("nvmlDeviceGetUtilizationRates", "utilisation_ratio"),
        ("nvmlDeviceGetCurrentClocksThrottleReasons", "throttle_reasons"),
        ("nvmlDeviceGetComputeRunningProcesses", "processes"),
    ],
)
def test_an_unsupported_query_is_a_gap_and_leaves_the_rest(clock, query, figure):
    _, nvml = open_nvml(clock, FakeGpu(errors={query: pynvml.NVML_ERROR_NOT_SUPPORTED}))
    reading = nvml.readings()[0]
    values = {name: getattr(reading, name) for name in ("power_w", "energy_j", "temperature_c", "processes")}
    values |= {"utilisation_ratio": reading.utilisation_ratio, "throttle_reasons": reading.throttle_reasons}
    assert values.pop(figure) is None
    assert None not in values.values()
    assert reading.reason(figure) == "Not supported by this GPU or driver."
    assert nvml.problem() is None


def test_a_driver_older_than_the_bindings_is_a_gap(clock):
    mismatch = pynvml.NVMLLibraryMismatchError("no such function")
    _, nvml = open_nvml(clock, FakeGpu(errors={"nvmlDeviceGetComputeRunningProcesses": mismatch}))
    reading = nvml.readings()[0]
    assert reading.processes is None
    assert reading.reason("processes") == "Not supported by this old driver."


def test_a_driver_without_the_second_memory_query_answers_the_first(clock):
    gpu = FakeGpu(errors={"nvmlDeviceGetMemoryInfo_v2": pynvml.NVML_ERROR_FUNCTION_NOT_FOUND})
    _, nvml = open_nvml(clock, gpu)
    reading = nvml.readings()[0]
    assert reading.used_bytes == 10.5 * GIB
    assert reading.reason("memory") is None


def test_a_gpu_without_its_own_memory_has_none(clock):
    errors = {
        "nvmlDeviceGetMemoryInfo_v2": pynvml.NVML_ERROR_NOT_SUPPORTED,
        "nvmlDeviceGetMemoryInfo": pynvml.NVML_ERROR_NOT_SUPPORTED,
    }
    _, nvml = open_nvml(clock, FakeGpu(errors=errors))
    facts = nvml.devices()[0]
    assert (facts.total_bytes, facts.free_bytes, facts.used_bytes) == (None, None, None)
    assert facts.gaps[0].figure == "memory"


def test_processes_without_sizes_say_so(clock):
    _, nvml = open_nvml(clock, FakeGpu(processes=[process(1, None)]))
    reading = nvml.readings()[0]
    assert reading.processes[0].used_bytes is None
    assert reading.reason("processes") == "This driver lists processes without their memory."


def test_a_lost_gpu_leaves_a_gap_while_the_others_go_on(clock):
    lost, fine = FakeGpu(uuid="GPU-a"), FakeGpu(uuid="GPU-b")
    library, nvml = open_nvml(clock, lost, fine)
    assert len(nvml.readings()) == 2
    lost.lost = True
    first, second = nvml.readings()
    assert (first.used_bytes, first.power_w, first.reason("power_w")) == (
        None,
        None,
        "A GPU has fallen off the bus.",
    )
    assert second.power_w == 300.0
    assert nvml.problem().code == "gpu-lost"

    clock.now_s += 5.1  # the library is opened again: the lost GPU is not listed, the other keeps its number
    assert [reading.index for reading in nvml.readings()] == [1]
    assert nvml.problem().code == "gpu-lost"

    lost.lost = False
    clock.now_s += 5.1
    assert [reading.index for reading in nvml.readings()] == [0, 1]
    assert nvml.problem() is None
    assert library.inits == 3


def test_a_driver_that_vanishes_comes_back(clock):
    library, nvml = open_nvml(clock, FakeGpu())
    assert nvml.readings()[0].power_w == 300.0
    library.initialised = False  # what unloading the driver looks like to open handles
    reading = nvml.readings()[0]
    assert reading.power_w is None
    assert reading.reason("power_w") == "The connection to the NVIDIA driver was lost."
    clock.now_s += 5.1
    assert nvml.readings()[0].power_w == 300.0
    assert nvml.problem() is None


def test_mig_instances_stand_in_for_their_gpu(clock):
    instance = {"name": "NVIDIA H100 MIG 1g.10gb", "total": 10 * GIB, "used": GIB}
    board = FakeGpu(
        mig=[
            FakeGpu(**instance, uuid="MIG-a", processes=[process(7, GIB)]),
            FakeGpu(**instance, uuid="MIG-b"),
        ],
        errors={"nvmlDeviceGetUtilizationRates": pynvml.NVML_ERROR_NOT_SUPPORTED},
    )
    _, nvml = open_nvml(clock, board, FakeGpu(uuid="GPU-whole"))
    devices = nvml.devices()
    assert [(d.index, d.uuid, d.board, d.is_mig) for d in devices] == [
        (0, "MIG-a", 0, True),
        (1, "MIG-b", 0, True),
        (2, "GPU-whole", 1, False),
    ]
    first = nvml.readings()[0]
    assert first.total_bytes == 10 * GIB
    assert first.power_w == 300.0, "power is the board's"
    assert first.utilisation_ratio is None
    assert first.processes[0].pid == 7


def test_mig_without_instances_is_explained(clock):
    _, nvml = open_nvml(clock, FakeGpu(mig=[]))
    assert nvml.devices() == ()
    assert nvml.problem().code == "mig-without-instances"


def test_throttling_is_named_and_idling_is_not_throttling(clock):
    gpu = FakeGpu(throttle=pynvml.nvmlClocksThrottleReasonGpuIdle)
    _, nvml = open_nvml(clock, gpu)
    assert nvml.readings()[0].throttle_reasons == ()
    gpu.throttle |= pynvml.nvmlClocksThrottleReasonSwPowerCap
    assert nvml.readings()[0].throttle_reasons == ("power cap",)


def test_pcie_is_measured_once_a_second_after_the_other_sensors(clock):
    library, nvml = open_nvml(clock, FakeGpu())
    assert nvml.readings()[0].pcie_rx_bytes_per_s is None
    for _ in range(5):
        reading = nvml.readings()[0]
        clock.now_s += 0.1
    assert (reading.pcie_rx_bytes_per_s, reading.pcie_tx_bytes_per_s) == (2e6, 1e6)
    assert reading.reason("pcie_rx_bytes_per_s") is None
    assert library.calls["nvmlDeviceGetPcieThroughput"] == 2
    clock.now_s += 1.0
    nvml.readings()
    assert library.calls["nvmlDeviceGetPcieThroughput"] == 4


def test_closing_releases_the_library_and_a_later_call_opens_it_again(clock):
    library, nvml = open_nvml(clock, FakeGpu())
    nvml.devices()
    nvml.close()
    assert not library.initialised
    assert len(nvml.devices()) == 1


def test_many_threads_may_ask_while_the_driver_comes_and_goes():
    library = FakeNvml(FakeGpu(), FakeGpu())
    nvml = Nvml(library, retry_s=0.0)
    failures = []

    def ask():
        try:
            for _ in range(100):
                nvml.readings()
                nvml.devices()
                nvml.close()
        except Exception as error:  # noqa: BLE001 - any exception at all is the failure
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        library.initialised = False
    for thread in threads:
        thread.join()
    assert failures == []
