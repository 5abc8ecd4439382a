"""pynvml's names over GPUs that a test describes; constants and errors are the real ones."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import pynvml

GIB = 2**30


@dataclass
class FakeGpu:
    """One board; `errors` maps a query's name to the NVML code it fails with."""

    name: str = "NVIDIA H100 80GB HBM3"
    uuid: str = "GPU-0"
    total: int = 80 * GIB
    used: int = 10 * GIB
    utilisation: int = 50
    milliwatts: int = 300_000
    millijoules: int = 5_000_000
    throttle: int = 0
    processes: list = field(default_factory=list)
    errors: dict = field(default_factory=dict)
    mig: list | None = None
    lost: bool = False


def process(pid, used):
    return SimpleNamespace(pid=pid, usedGpuMemory=used)


class FakeNvml:
    """Stands in for the module `pynvml`; `calls` counts the queries by name."""

    def __init__(self, *gpus):
        self.gpus = list(gpus)
        self.init_error = None
        self.errors = {}
        self.initialised = False
        self.inits = 0
        self.calls = {}

    def __getattr__(self, name):
        if name.startswith("nvml") and callable(vars(pynvml).get(name)):
            raise AttributeError(f"the fake has no {name}")
        return vars(pynvml)[name]

    def _check(self, name, gpu=None):
        self.calls[name] = self.calls.get(name, 0) + 1
        if not self.initialised:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)
        if gpu is not None and gpu.lost:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        code = (gpu.errors if gpu is not None else {}).get(name) or self.errors.get(name)
        if isinstance(code, Exception):
            raise code
        if code:
            raise pynvml.NVMLError(code)

    def nvmlInit(self):
        self.inits += 1
        if self.init_error:
            raise pynvml.NVMLError(self.init_error)
        self.initialised = True

    def nvmlShutdown(self):
        self._check("nvmlShutdown")
        self.initialised = False

    def nvmlSystemGetDriverVersion(self):
        self._check("nvmlSystemGetDriverVersion")
        return "580.95.05"

    def nvmlSystemGetCudaDriverVersion(self):
        self._check("nvmlSystemGetCudaDriverVersion")
        return 13010

    def nvmlDeviceGetCount(self):
        self._check("nvmlDeviceGetCount")
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index):
        self._check("nvmlDeviceGetHandleByIndex", self.gpus[index])
        return self.gpus[index]

    def nvmlDeviceGetMigMode(self, gpu):
        self._check("nvmlDeviceGetMigMode", gpu)
        return [0 if gpu.mig is None else 1, 0]

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu):
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu, slot):
        if slot >= len(gpu.mig):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return gpu.mig[slot]

    def nvmlDeviceGetName(self, gpu):
        self._check("nvmlDeviceGetName", gpu)
        return gpu.name

    def nvmlDeviceGetUUID(self, gpu):
        self._check("nvmlDeviceGetUUID", gpu)
        return gpu.uuid

    def nvmlDeviceGetCudaComputeCapability(self, gpu):
        self._check("nvmlDeviceGetCudaComputeCapability", gpu)
        return (9, 0)

    def nvmlDeviceGetMemoryInfo(self, gpu, version=None):
        self._check("nvmlDeviceGetMemoryInfo_v2" if version else "nvmlDeviceGetMemoryInfo", gpu)
        reserved = GIB // 2
        used = gpu.used if version else gpu.used + reserved
        return SimpleNamespace(total=gpu.total, used=used, free=gpu.total - gpu.used - reserved)

    def nvmlDeviceGetUtilizationRates(self, gpu):
        self._check("nvmlDeviceGetUtilizationRates", gpu)
        return SimpleNamespace(gpu=gpu.utilisation, memory=0)

    def nvmlDeviceGetPowerUsage(self, gpu):
        self._check("nvmlDeviceGetPowerUsage", gpu)
        return gpu.milliwatts

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu):
        self._check("nvmlDeviceGetTotalEnergyConsumption", gpu)
        return gpu.millijoules

    def nvmlDeviceGetTemperature(self, gpu, sensor):
        self._check("nvmlDeviceGetTemperature", gpu)
        return 41

    def nvmlDeviceGetClockInfo(self, gpu, clock):
        self._check("nvmlDeviceGetClockInfo", gpu)
        return 1980 if clock == pynvml.NVML_CLOCK_SM else 2619

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, gpu):
        self._check("nvmlDeviceGetCurrentClocksThrottleReasons", gpu)
        return gpu.throttle

    def nvmlDeviceGetPcieThroughput(self, gpu, counter):
        self._check("nvmlDeviceGetPcieThroughput", gpu)
        return 2_000 if counter == pynvml.NVML_PCIE_UTIL_RX_BYTES else 1_000

    def nvmlDeviceGetComputeRunningProcesses(self, gpu):
        self._check("nvmlDeviceGetComputeRunningProcesses", gpu)
        return gpu.processes
