"""Memory bandwidth: of a GPU's own memory, measured there by a copy, and what decoding makes of it.

What was measured is kept with the home. A copy reads and writes in equal parts, and both count. Decoding
nearly only reads, which some GPUs do a few per cent faster; still it is closer to what this very card gives
than its data sheet.

The roofline is the fastest decoding of one request that memory bandwidth allows; utilisations say how close
the lanes of a run came to it. Each token reads all weights from memory once. The roofline is theory, not
measurement: it leaves out the KV cache and all arithmetic, and no engine reaches it.
"""

import asyncio
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from core.bench.results.result import BenchResult
from core.codec import decode, encode
from core.domain.runs import BenchPass, LaneFacts
from core.domain.turns import utc_now
from core.engines.placement import Place, load_lock
from core.errors import (
    EngineBusy,
    EngineError,
    EngineNotInstalled,
    EngineOutOfMemory,
    InputError,
    LMDynoError,
)
from core.files import lock_path, locked, try_lock, unlock, write_atomically
from core.i18n import N_, Message
from core.meter.devices import measure_lock
from core.settings import PROJECT_ROOT, Settings
from core.telemetry.nvml import Nvml
from core.telemetry.samples import GpuFacts, GpuReading
from core.units import gib

log = logging.getLogger(__name__)

REPEATS = 25
MAX_BUFFER_BYTES = 4 * 2**30
MIN_BUFFER_BYTES = 512 * 2**20
"""Ten times the largest cache of a GPU, which would otherwise be measured along with the memory."""
_FREE_SHARE = 0.2
"""Of the free memory for each of the two buffers."""
_CONTEXT_BYTES = 2**30
"""What CUDA takes beside them, with room to spare."""
_BUSY_RATIO = 0.1
_TIMEOUT_S = 120.0
_WORKER = "core.bench.bandwidth_worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidth:
    """One measurement: the median of `n` repeats, and the slowest and fastest of them."""

    gpu_name: str
    gpu_uuid: str | None
    bytes_per_s: float
    low_bytes_per_s: float
    high_bytes_per_s: float
    n: int
    buffer_bytes: int
    """Copied in each repeat, several times."""
    driver: str | None
    torch: str
    measured_at: datetime


class Gpus(Protocol):
    """The part of `core.telemetry.nvml.Nvml` that a bandwidth measurement uses."""

    def devices(self) -> tuple[GpuFacts, ...]: ...
    def readings(self) -> tuple[GpuReading, ...]: ...
    def driver_version(self) -> str | None: ...


def measured_bandwidths(settings: Settings) -> tuple[Bandwidth, ...]:
    """All measurements of this home, the newest first, one a GPU. Cheap; a broken file holds none."""
    return tuple(sorted(_read(_file(settings)).values(), key=lambda each: each.measured_at, reverse=True))


def measured_bandwidth(settings: Settings, gpu_name: str) -> Bandwidth | None:
    """The newest measurement of a GPU with this name; None if none was measured in this home."""
    return next((each for each in measured_bandwidths(settings) if each.gpu_name == gpu_name), None)


def measure_bandwidth(
    settings: Settings, *, gpu_index: int = 0, gpus: Gpus | None = None, python: str = sys.executable
) -> Bandwidth:
    """Measure a GPU by copying within its memory, and keep the result; takes about ten seconds, blocks.

    Two buffers of at most 4 GiB each are taken for a second, in a child process of `python`, which must have
    torch. No engine may load and nothing else measure meanwhile.

    Raises:
        InputError: there is no such GPU (`no-gpu`).
        EngineBusy: something works on it (`gpu-busy`).
        EngineOutOfMemory: too little memory is free (`gpu-full`).
        EngineNotInstalled: `python` has no torch that reaches the GPU.
        EngineError: the copy failed (`bandwidth-failed`).
    """
    gpus = gpus or Nvml()
    gpu = _gpu(gpus, gpu_index)
    with _alone_on(settings, gpu):
        _require_idle(gpus, gpu)
        size = _buffer_bytes(_gpu(gpus, gpu_index))
        answer = asyncio.run(_copy(python, gpu, size))
    speeds = [answer["moved_bytes"] / seconds for seconds in answer["seconds"]]
    bandwidth = Bandwidth(
        gpu_name=gpu.name,
        gpu_uuid=gpu.uuid,
        bytes_per_s=median(speeds),
        low_bytes_per_s=min(speeds),
        high_bytes_per_s=max(speeds),
        n=len(speeds),
        buffer_bytes=size,
        driver=gpus.driver_version(),
        torch=answer["torch"],
        measured_at=utc_now(),
    )
    _keep(settings, bandwidth)
    return bandwidth


def _gpu(gpus: Gpus, index: int) -> GpuFacts:
    devices = gpus.devices()
    if not devices:
        raise InputError(
            N_("Measuring memory bandwidth needs an NVIDIA GPU, but this machine has none."),
            hint=N_("If this machine has a GPU, run `lmdyno doctor` to check its driver."),
            code="no-gpu",
        )
    for gpu in devices:
        if gpu.index == index:
            return gpu
    raise InputError(
        N_("There is no GPU {index}.", index=index),
        hint=N_("Available: {names}.", names=", ".join(str(gpu.index) for gpu in devices)),
        code="no-gpu",
    )


@contextmanager
def _alone_on(settings: Settings, gpu: GpuFacts) -> Iterator[None]:
    """Hold what a measurement and the loading of an engine hold; raises EngineBusy if either is under way."""
    held: list[int] = []
    try:
        for path, doing in (
            (measure_lock(settings.locks_dir, f"cuda:{gpu.index}"), N_("another measurement is using it")),
            *(
                (load_lock(settings.locks_dir, name), N_("an engine is loading"))
                for name in Place((gpu,)).lock_names
            ),
        ):
            descriptor = try_lock(path)
            if descriptor is None:
                raise _busy(gpu.index, doing)
            held.append(descriptor)
        yield
    finally:
        for descriptor in held:
            unlock(descriptor)


def _require_idle(gpus: Gpus, gpu: GpuFacts) -> None:
    used = next((each.utilisation_ratio for each in gpus.readings() if each.index == gpu.index), None)
    if used is not None and used > _BUSY_RATIO:
        raise _busy(gpu.index, N_("its utilisation is {share}", share=f"{used:.0%}"))


def _busy(index: int, reason: Message) -> EngineBusy:
    return EngineBusy(
        N_("GPU {index} is in use: {reason}.", index=index, reason=reason),
        hint=N_("Measure again when the GPU is idle."),
        code="gpu-busy",
    )


def _buffer_bytes(gpu: GpuFacts) -> int:
    if gpu.free_bytes is None:
        return MIN_BUFFER_BYTES
    size = min(MAX_BUFFER_BYTES, int((gpu.free_bytes - _CONTEXT_BYTES) * _FREE_SHARE))
    if size < MIN_BUFFER_BYTES:
        raise EngineOutOfMemory(
            N_(
                "GPU {index} has only {free} free, which is too little for a copy that doesn't fit in its "
                "caches.",
                index=gpu.index,
                free=gib(gpu.free_bytes),
            ),
            hint=N_(
                "Stop an engine. {needed} must be free.",
                needed=gib(MIN_BUFFER_BYTES / _FREE_SHARE + _CONTEXT_BYTES),
            ),
            code="gpu-full",
        )
    return size


async def _copy(python: str, gpu: GpuFacts, buffer_bytes: int) -> dict[str, Any]:
    """Return what the worker says; it is gone when this returns or raises."""
    environment = {
        **os.environ,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": gpu.uuid or str(gpu.index),
    }
    try:
        worker = await asyncio.create_subprocess_exec(
            *(python, "-m", _WORKER, str(buffer_bytes), str(REPEATS)),
            cwd=PROJECT_ROOT,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as exc:
        raise EngineNotInstalled(N_("Can't run {path}: {reason}", path=python, reason=exc.strerror)) from exc
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            output, complaints = await worker.communicate()
    except TimeoutError:
        raise _failed(N_("it took longer than {time}", time=f"{_TIMEOUT_S:.0f} s")) from None
    finally:
        if worker.returncode is None:
            worker.kill()
            await worker.wait()
    return _understood(output, complaints, python)


def _understood(output: bytes, complaints: bytes, python: str) -> dict[str, Any]:
    try:
        answer: dict[str, Any] = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        last = (complaints.decode("utf-8", "replace").strip().splitlines() or ["it ended without a word"])[-1]
        raise _failed(last[:300]) from None
    if "error" not in answer:
        return answer
    raise _refused(answer["error"], answer["reason"], python)


def _refused(code: str, reason: str, python: str) -> LMDynoError:
    if code == "gpu-full":
        return EngineOutOfMemory(
            N_("The GPU's memory is too small for the buffers: {reason}", reason=reason),
            hint=N_("Stop an engine."),
            code=code,
        )
    return EngineNotInstalled(
        N_("torch in {path} can't use the GPU: {reason}", path=python, reason=reason),
        hint=N_("Run `lmdyno doctor` to find out what is missing."),
    )


def _failed(reason: str) -> EngineError:
    return EngineError(
        N_("Measuring the memory bandwidth failed: {reason}", reason=reason),
        hint=N_("Run `lmdyno doctor` to check the driver and torch."),
        code="bandwidth-failed",
    )


def _file(settings: Settings) -> Path:
    return settings.home / "bandwidth.json"


def _read(file: Path) -> Mapping[str, Bandwidth]:
    try:
        return decode(dict[str, Bandwidth], file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, InputError) as exc:
        log.warning("kept bandwidths can't be read: %s", exc)
        return {}


def _keep(settings: Settings, bandwidth: Bandwidth) -> None:
    file = _file(settings)
    with locked(lock_path(settings.locks_dir, "bandwidth")):
        kept = {**_read(file), bandwidth.gpu_uuid or bandwidth.gpu_name: bandwidth}
        write_atomically(file, encode(kept))


_GB = 10**9

_BANDWIDTHS: Sequence[tuple[str, int]] = (
    (r"B200", 8000 * _GB),
    (r"H200", 4800 * _GB),
    (r"H100 NVL", 3900 * _GB),
    (r"H100 PCIe", 2000 * _GB),
    (r"H100", 3350 * _GB),
    (r"A100.*PCIe.*80GB|A100 80GB PCIe", 1935 * _GB),
    (r"A100.*80GB", 2039 * _GB),
    (r"A100", 1555 * _GB),
    (r"A6000", 768 * _GB),
    (r"L40S?\b", 864 * _GB),
    (r"A10G?\b", 600 * _GB),
    (r"L4\b", 300 * _GB),
    (r"V100", 900 * _GB),
    (r"\bT4\b", 320 * _GB),
    (r"RTX 5090", 1792 * _GB),
    (r"RTX 4090", 1008 * _GB),
    (r"RTX 4080", 717 * _GB),
    (r"RTX 4070", 504 * _GB),
    (r"RTX 4060", 272 * _GB),
    (r"RTX 3090", 936 * _GB),
)
"""Memory bandwidth in bytes a second by NVIDIA's data sheets; the first pattern that fits counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """The limit that memory bandwidth sets to decoding one request."""

    weight_bytes: int
    bandwidth_bytes_per_s: float

    @property
    def decode_tok_per_s(self) -> float:
        return self.bandwidth_bytes_per_s / self.weight_bytes

    def share(self, decode_tok_per_s: float) -> float:
        """Return how much of the limit a measured decode speed reaches; 1 would be all of it."""
        return decode_tok_per_s / self.decode_tok_per_s


def bandwidth_of(gpu_name: str) -> int | None:
    """Bytes a second of a GPU by its NVML name; None for unknown ones, and for slices (MIG) of one."""
    if "MIG" in gpu_name:
        return None
    return next((value for pattern, value in _BANDWIDTHS if re.search(pattern, gpu_name, re.I)), None)


def roofline(
    weight_bytes: int | None, gpu_names: Sequence[str], *, bandwidth_bytes_per_s: float | None = None
) -> Roofline | None:
    """The limit for weights that are spread over these GPUs; None where a figure is missing.

    `bandwidth_bytes_per_s` of one GPU, if it was measured, is used instead of the data sheet's.
    """
    if not weight_bytes or not gpu_names:
        return None
    known = [bandwidth_bytes_per_s or bandwidth_of(name) for name in gpu_names]
    bandwidths = [bandwidth for bandwidth in known if bandwidth is not None]
    if len(bandwidths) < len(known):
        return None
    return Roofline(weight_bytes=weight_bytes, bandwidth_bytes_per_s=sum(bandwidths))


@dataclass(frozen=True, slots=True, kw_only=True)
class BandwidthUtilisation:
    """The share of its roofline that a lane reached, answering one request at a time."""

    lane: str
    decode_tok_per_s: float
    """Mean of the requests."""
    n: int
    limit: Roofline
    gpu_names: tuple[str, ...]
    """Of the GPUs that computed a request: with replicas those of one of them."""
    measured: Bandwidth | None
    """What the limit was computed with; None if with the GPU's data sheet."""

    @property
    def share(self) -> float:
        return self.limit.share(self.decode_tok_per_s)

    @property
    def bandwidth_source(self) -> Message:
        """Where the limit's bandwidth is from, in words."""
        return N_("measured with a copy") if self.measured else N_("from the data sheet")


def utilisations(
    result: BenchResult, passes: Sequence[BenchPass], measured: Callable[[str], Bandwidth | None]
) -> tuple[BandwidthUtilisation, ...]:
    """The lanes whose limit is known, from their points alone at concurrency 1.

    `measured` tells a GPU's bandwidth by its name; where it has none, the data sheet's counts.
    """
    shares = []
    facts = {lane_facts.lane.name: lane_facts for lane_facts in result.run.lanes}
    for point in result.points:
        if point.level.concurrency != 1 or point.is_together or point.decode_tok_per_s is None:
            continue
        names = _gpu_names(facts[point.lane], passes)
        known = [measured(name) for name in names]
        bandwidth = known[0] if known and len(set(names)) == 1 else None
        limit = roofline(
            facts[point.lane].weight_bytes,
            names,
            bandwidth_bytes_per_s=bandwidth.bytes_per_s if bandwidth else None,
        )
        if limit is not None:
            shares.append(
                BandwidthUtilisation(
                    lane=point.lane,
                    decode_tok_per_s=point.decode_tok_per_s.mean,
                    n=point.decode_tok_per_s.n,
                    limit=limit,
                    gpu_names=tuple(names),
                    measured=bandwidth,
                )
            )
    return tuple(shares)


def _gpu_names(facts: LaneFacts, passes: Sequence[BenchPass]) -> list[str]:
    """The names of the GPUs that compute one request of a lane; none for a CPU or an endpoint."""
    kind, _, indices = (facts.device or "").partition(":")
    if kind != "cuda":
        return []
    seen = {gpu.index: gpu.name for each in passes if facts.lane.name in each.lanes for gpu in each.gpus}
    wanted = [int(index) for index in indices.split(",")]
    wanted = wanted[: len(wanted) // facts.lane.settings.replicas]
    return [seen[index] for index in wanted] if all(index in seen for index in wanted) else []
