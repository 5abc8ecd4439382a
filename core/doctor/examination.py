"""The whole examination: machine, engines' environments, weights, store and every lane."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

from core.config import LaneRegistry, demo_model
from core.doctor.checks import machine_findings, stack_findings, torch_problem, turbomind_problem
from core.doctor.fitness import LMDEPLOY_KINDS, Diagnosis, Finding, LaneFitness, Status, can_run
from core.doctor.probe import EngineStack, probe_stack
from core.domain.specs import EngineKind, LaneSpec
from core.domain.turns import ErrorInfo
from core.errors import StoreError
from core.i18n import N_, Text
from core.models.demo_models import is_text_prepared
from core.settings import Settings
from core.store.turns import Store
from core.telemetry.nvml import Nvml, describe_machine
from core.telemetry.samples import GpuFacts


def diagnose(settings: Settings, lanes: LaneRegistry) -> tuple[Finding, ...]:
    """The findings of `examine` alone."""
    return examine(settings, lanes).findings


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
    of_machine = tuple(machine_findings(settings, machine, nvml))
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
