"""The doctor: finds out which lanes can run on this machine, and what to do about those that can't.

`examine` looks at everything: the machine (Python, processor, memory, disk, GPUs and their driver), the
engines' environments with imports in child processes, weights, store and every lane. `core.doctor.fitness`
tells cheaply from files and installed packages whether a lane can run.
"""

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from core import process_setup, units
from core.config import LaneRegistry, demo_model
from core.doctor.fitness import LMDEPLOY_KINDS, Diagnosis, Finding, LaneFitness, Status, can_run
from core.doctor.stack import EngineStack, probe_stack, stack_findings, torch_problem, turbomind_problem
from core.domain.specs import EngineKind, LaneSpec
from core.domain.turns import ErrorInfo, Machine
from core.errors import StoreError
from core.i18n import N_, Text
from core.models.demo_models import is_text_prepared
from core.settings import Settings
from core.store.turns import Store
from core.telemetry.nvml import Nvml, available_bytes, describe_machine
from core.telemetry.samples import GpuFacts

_PYTHONS = ((3, 11), (3, 13))
_SCARCE_MEMORY_BYTES = 2 * 2**30
_SCARCE_DISK_BYTES = 5 * 2**30
_FULL_DISK_BYTES = 512 * 2**20


def examine(
    settings: Settings,
    lanes: LaneRegistry,
    *,
    nvml: Nvml | None = None,
    probe: Callable[[str], EngineStack] = probe_stack,
    on_findings: Callable[[Sequence[Finding]], None] = lambda _findings: None,
    of_cluster: Sequence[Finding] = (),
    node_problem: Callable[[str], ErrorInfo | None] = lambda _node: None,
) -> Diagnosis:
    """Look at everything that decides which lanes can run here.

    Takes 10 to 20 s where torch is installed, since it is imported in a child process; `on_findings` gets
    what is found as it comes, first what takes no such process. Opens the store, which creates or migrates
    it. Never raises for what it finds. The last two arguments tell of the Ray cluster, if there is one
    (`core.cluster.findings.examine_all`).
    """
    nvml = nvml or Nvml()
    machine = describe_machine(nvml)
    driver, gpus = nvml.driver_version(), nvml.devices()
    of_machine = tuple(_machine(settings, machine, nvml))
    of_home = (*of_cluster, *_demo_weights(settings, lanes), _store(settings))
    on_findings((*of_machine, *of_home))
    stacks: dict[str, EngineStack] = {}
    of_stacks: list[Finding] = []
    for python in _pythons(lanes.lanes):
        stacks[python] = stack = probe(python)
        about_stack = tuple(stack_findings(stack, driver=driver, gpus=gpus, own=python == sys.executable))
        on_findings(about_stack)
        of_stacks += about_stack
    fitness = tuple(
        LaneFitness(lane.name, node_problem(lane.node), node=lane.node)
        if lane.node
        else _fitness(lane, stacks, driver, gpus)
        for lane in lanes.lanes
    )
    of_lanes = tuple(_lane_findings(fitness))
    on_findings(of_lanes)
    findings = (*of_machine, *of_stacks, *of_home, *of_lanes)
    return Diagnosis(findings=findings, lanes=fitness, machine=machine)


def _pythons(lanes: Sequence[LaneSpec]) -> tuple[str, ...]:
    """LMDyno's own interpreter, then those that lanes name."""
    named = (lane.settings.python for lane in lanes if lane.settings.python)
    return tuple(dict.fromkeys((sys.executable, *named)))


def _fitness(
    lane: LaneSpec, stacks: Mapping[str, EngineStack], driver: str | None, gpus: Sequence[GpuFacts]
) -> LaneFitness:
    reason = can_run(lane, gpu=bool(gpus))
    if reason is None and lane.is_local:
        reason = _too_few_gpus(lane, gpus) or _stack_reason(
            lane, stacks[lane.settings.python or sys.executable], driver, gpus
        )
    return LaneFitness(lane.name, reason, lane.is_local)


def _too_few_gpus(lane: LaneSpec, gpus: Sequence[GpuFacts]) -> ErrorInfo | None:
    if lane.kind not in LMDEPLOY_KINDS or lane.settings.gpu_count <= len(gpus):
        return None
    return ErrorInfo(
        "too-few-gpus",
        N_(
            "{lane} needs {count} GPUs, but only {available} are available.",
            lane=lane.name,
            count=lane.settings.gpu_count,
            available=len(gpus),
        ),
        N_("Lower tp or replicas, or correct devices in lanes.toml."),
    )


def _stack_reason(
    lane: LaneSpec, stack: EngineStack, driver: str | None, gpus: Sequence[GpuFacts]
) -> ErrorInfo | None:
    if stack.problem is not None:
        return ErrorInfo("engine-python-broken", stack.problem, N_("Correct `python` of the lane."))
    needs_gpu = lane.kind in LMDEPLOY_KINDS or (gpus and lane.settings.device != "cpu")
    if needs_gpu and (problem := torch_problem(stack, driver=driver, gpus=gpus)):
        return ErrorInfo("torch-unfit", *problem)
    if lane.kind in (EngineKind.TURBOMIND, EngineKind.AWQ) and (
        problem := turbomind_problem(stack, driver=driver, gpus=gpus)
    ):
        return ErrorInfo("turbomind-unfit", *problem)
    if stack.torch is None:
        return ErrorInfo(
            "torch-unfit",
            N_("Can't import torch: {reason}", reason=stack.torch_problem),
            N_("Reinstall it."),
        )
    return None


def _demo_weights(settings: Settings, lanes: LaneRegistry) -> Iterator[Finding]:
    demo = demo_model(settings)
    if all(model.checkpoint != demo.checkpoint for model in lanes.models):
        return
    if is_text_prepared(settings):
        yield Finding(Status.OK, N_("Demo weights"), N_("{model} is prepared.", model=demo.name))
    else:
        yield Finding(
            Status.WARN,
            N_("Demo weights"),
            N_("{model} is not prepared.", model=demo.name),
            N_("Prepare it, which takes about a minute: `lmdyno models demo`"),
        )


def _store(settings: Settings) -> Finding:
    store = Store(settings.database_url)
    try:
        store.open()
    except StoreError as error:
        return Finding(Status.FAIL, N_("Store"), error.message, error.hint)
    finally:
        store.close()
    return Finding(Status.OK, N_("Store"), N_("The database is writable."))


def _where(lane: LaneFitness) -> Text:
    if lane.node:
        return N_(
            "Node {node} is connected. The engine's start checks its weights there.",
            node=lane.node,
        )
    return N_("Can run on this machine.") if lane.is_local else N_("Endpoint, configured.")


def _lane_findings(fitness: Sequence[LaneFitness]) -> Iterator[Finding]:
    for lane in fitness:
        what = N_("Lane {name}", name=lane.name)
        if lane.reason is None:
            yield Finding(
                Status.OK,
                what,
                _where(lane),
            )
        else:
            yield Finding(Status.WARN, what, lane.reason.message, lane.reason.hint)
    if fitness and not any(lane.can_run for lane in fitness):
        yield Finding(
            Status.FAIL,
            N_("Lanes"),
            N_("No lane can run on this machine."),
            N_("Follow the hints above for at least one lane."),
        )


def _machine(settings: Settings, machine: Machine, nvml: Nvml) -> Iterator[Finding]:
    """Yield what the machine offers, from its Python to its GPUs."""
    yield _python(machine, (sys.version_info.major, sys.version_info.minor))
    yield Finding(
        Status.INFO,
        N_("Machine"),
        N_(
            "{platform} · {cpu} · {n} cores",
            platform=machine.platform,
            cpu=machine.cpu or "CPU",
            n=machine.cores,
        ),
    )
    yield _memory(machine.memory_bytes, available_bytes())
    yield _disk(settings.home)
    yield _open_files(process_setup.open_files_allowed())
    yield from _gpus(nvml)


def _python(machine: Machine, version: tuple[int, int]) -> Finding:
    if _PYTHONS[0] <= version <= _PYTHONS[1]:
        return Finding(Status.OK, "Python", machine.python)
    return Finding(
        Status.WARN,
        "Python",
        N_("{version}, but LMDyno needs 3.11 to 3.13.", version=machine.python),
        N_("Recreate the environment with one of these versions: `python3.12 -m venv .venv`"),
    )


def _memory(total: int | None, available: int) -> Finding:
    detail = N_("{available} of {total} available", available=units.gib(available), total=units.gib(total))
    if available >= _SCARCE_MEMORY_BYTES:
        return Finding(Status.OK, N_("Memory"), detail)
    return Finding(
        Status.WARN,
        N_("Memory"),
        detail,
        N_("Close other programs. An engine keeps its whole model in memory."),
    )


def _disk(home: Path) -> Finding:
    existing = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    detail = N_("{free} free at {path}", free=units.gib(free), path=home)
    if free < _FULL_DISK_BYTES:
        remedy = N_("Free some space, or set LMDYNO_HOME to a folder on another disk.")
        return Finding(Status.FAIL, N_("Disk"), detail, remedy)
    if free < _SCARCE_DISK_BYTES:
        remedy = N_("Models need more space. Set LMDYNO_HOME to a folder on a larger disk.")
        return Finding(Status.WARN, N_("Disk"), detail, remedy)
    return Finding(Status.OK, N_("Disk"), detail)


def _open_files(limit: int) -> Finding:
    tabs = limit // process_setup.FILES_PER_TAB
    detail = N_("Up to {n} open at once, enough for about {tabs} browser tabs", n=limit, tabs=tabs)
    if limit >= process_setup.ENOUGH_FILES:
        return Finding(Status.OK, N_("Open files"), detail)
    return Finding(
        Status.WARN,
        N_("Open files"),
        detail,
        N_("Raise the hard limit before you share the dashboard: `ulimit -Hn`, or LimitNOFILE in systemd."),
    )


def _gpus(nvml: Nvml) -> Iterator[Finding]:
    driver, cuda = nvml.driver_version(), nvml.cuda_version()
    if driver is not None:
        detail: Text = driver
        if cuda:
            detail = N_("{driver}, supports CUDA up to {cuda}", driver=driver, cuda=f"{cuda[0]}.{cuda[1]}")
        yield Finding(Status.OK, N_("NVIDIA driver"), detail)
    devices = nvml.devices()
    yield from (_gpu(device) for device in devices)
    if problem := nvml.problem():
        # No driver is how most laptops are; a driver that fails is not.
        status = Status.INFO if problem.code == "no-nvidia-driver" else Status.WARN
        yield Finding(status, "GPU", problem.message, problem.hint)
    elif not devices:
        yield Finding(Status.INFO, "GPU", N_("The driver lists no GPU."), N_("Lanes run on the CPU."))


def _gpu(device: GpuFacts) -> Finding:
    what = f"GPU {device.index}"
    if device.free_bytes is None or device.total_bytes is None:
        return Finding(Status.INFO, what, N_("{gpu}, shares the machine's memory", gpu=device.name))
    capability = device.compute_capability
    detail = N_(
        "{gpu} · {free} of {total} free · compute capability {capability}",
        gpu=device.name,
        free=units.gib(device.free_bytes),
        total=units.gib(device.total_bytes),
        capability=f"{capability[0]}.{capability[1]}" if capability else units.UNKNOWN,
    )
    if device.free_bytes < device.total_bytes / 2:
        return Finding(
            Status.WARN,
            what,
            detail,
            N_("Other programs use much of its memory. To list them, run `nvidia-smi`."),
        )
    return Finding(Status.OK, what, detail)
