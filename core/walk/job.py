"""Walks as background jobs: the lanes that one uses, all steps in the tutorial's order, and the files that a
walk is kept in.

A step that can't run here is skipped with its reason. A walk is a JSON file under `home/walks/`, written anew
after every step, so that one that was stopped keeps what it had. One that a node of the cluster takes is kept
here in the same way. A walk and its job have the same id.

`python -m core.walk.job FOLDER FD` is the worker, started by `core.jobs`: it takes the walk, or has a node
take it and keeps what that reports. On a node, the walk has a folder of its own in the node's home: its
engines listen where nobody else reaches them, so the node's agent must not take them for engines of its
lanes.
"""

import asyncio
import json
import logging
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from core import __version__, process_setup
from core.access.guard import Action, authorise
from core.cluster.jobs import follow
from core.cluster.protocol import NodeJob
from core.codec import decode, encode
from core.config import LaneRegistry, load_lanes
from core.doctor.fitness import can_run
from core.domain.runs import RunState
from core.domain.specs import EngineKind, LaneSpec, ModelSpec, Weights
from core.domain.turns import ErrorInfo, new_id
from core.domain.walk import STEP_TEXTS, StepKind, StepResult, StepState, WalkRun, walk_title
from core.errors import InputError, LMDynoError
from core.i18n import N_, Text, _
from core.jobs.registry import Jobs, JobSpec, load_outcome, outcome_file, save_outcome
from core.jobs.worker import Report, run
from core.models.vision import is_for_images
from core.settings import Settings, load_settings
from core.store.run_tables import Walks
from core.telemetry.nvml import Nvml, describe_machine
from core.walk.steps import AWQ_RATIO, Notes, Walker, WalkPlan, with_nodes

JOB_KIND = "walk"
_WORKER = "core.walk.job"
_FOLLOW = "follow"
"""An argument of the job: the walk is taken on the node, and this job follows it."""

log = logging.getLogger(__name__)


def start_walk(settings: Settings, model: str | None = None, *, node: str | None = None) -> str:
    """Start a walk in a process of its own, here or on a node of the cluster, and return its id.

    Raises AccessDenied, and InputError while another one runs there or if the model can't be walked with.
    """
    authorise(Action.START_JOB, JOB_KIND)
    gpu = bool(Nvml().devices())
    registry = load_lanes(settings, gpu=gpu)
    plan = walk_plan(registry, model, gpu=gpu, node=node)
    walk_id = new_id()
    arguments: dict[str, object] = {"id": walk_id, "model": plan.model.name}
    if node is not None:
        local = tuple(lane for lane in registry.lanes if lane.is_local)
        lanes = LaneRegistry(models=registry.models, lanes=local, source=None)
        arguments |= {"node": node, "lanes": json.loads(encode(lanes)), _FOLLOW: True}
    return Jobs(settings).start_module(
        JOB_KIND,
        _WORKER,
        arguments,
        title=walk_title(plan.model.name, node),
        job_id=walk_id,
        already_running=N_("A walk is already running."),
        is_same=lambda spec: spec.arguments.get("node") == node,
    )


def take_walk(
    settings: Settings,
    model: str | None,
    walk_id: str,
    tell: Callable[[Text, float], None],
    on_step: Callable[[WalkRun], None] = lambda _run: None,
    *,
    node: str | None = None,
    lanes: LaneRegistry | None = None,
) -> WalkRun:
    """Take a walk in this process; it is saved after each step, and in the history when it ends.

    Main thread only. On a node, `node` is the name of this machine, and `lanes` come from the dashboard's.
    """
    nvml = Nvml()
    gpu = bool(nvml.devices())
    registry = lanes or load_lanes(settings, gpu=gpu)
    plan = walk_plan(registry, model, gpu=gpu, node=node)
    if node is not None:
        registry = replace(registry, lanes=lanes_at(registry, node))
    progress = 0.0

    def stage(words: Text) -> None:
        tell(words, progress)

    def step_began(words: Text, share: float) -> None:
        nonlocal progress
        progress = share
        tell(words, share)

    def step_ended(run: WalkRun) -> None:
        save(settings, run)
        on_step(run)

    walker = Walker(settings, registry, plan, nvml=nvml, tell=stage)
    run = WalkRun(
        id=walk_id,
        model=plan.model.name,
        lmdyno=__version__,
        state=RunState.RUNNING,
        lanes=tuple(replace(lane, node=node) for lane in plan.lanes),
        node=node,
    )
    walk = Walk(plan, walker=walker, nvml=nvml, run=run)
    try:
        walk.take(step_ended, step_began)
    except BaseException:
        keep(settings, replace(walk.run, state=RunState.STOPPED))
        raise
    return keep(settings, replace(walk.run, state=RunState.DONE))


def keep(settings: Settings, run: WalkRun) -> WalkRun:
    """Put a walk that ended into the history; one without a step leaves nothing."""
    if run.steps:
        save(settings, run)
        with closing(Walks(settings.database_url)) as walks:
            walks.save(run)
    return run


def save(settings: Settings, run: WalkRun) -> None:
    """Write the walk in place of an earlier state of it, whole or not at all."""
    save_outcome(run_file(settings, run.id), run)


def load(settings: Settings, walk_id: str) -> WalkRun | None:
    """The walk so far; None before its first step. Raises InputError (`bad-record`)."""
    return load_outcome(WalkRun, run_file(settings, walk_id))


def run_file(settings: Settings, walk_id: str) -> Path:
    return outcome_file(settings.home / "walks", walk_id, "walk")


def latest(settings: Settings, limit: int = 10) -> Sequence[WalkRun]:
    """The newest walks; a file that can't be read is left out."""
    files = sorted(
        (settings.home / "walks").glob("*.json"), key=lambda file: file.stat().st_mtime, reverse=True
    )
    runs = []
    for file in files[:limit]:
        run = load(settings, file.stem)
        if run is not None:
            runs.append(run)
    return runs


def lanes_at(registry: LaneRegistry, node: str | None) -> tuple[LaneSpec, ...]:
    """The lanes that a walk on the node can use, as lanes of that machine: those of the node, then those that
    name none. Without a node, those that name none.
    """
    fitting = [lane for lane in registry.lanes if lane.is_local and lane.model and lane.node in (node, None)]
    fitting.sort(key=lambda lane: lane.node != node)
    return tuple(replace(lane, node=None) for lane in fitting)


def walk_plan(registry: LaneRegistry, model: str | None, *, gpu: bool, node: str | None = None) -> WalkPlan:
    """The plan for a model of the registry, by default the first text model that has a lane.

    Lanes that the registry lacks are added where a GPU can run them. Raises ConfigError for an unknown model
    and where no lane has a model.

    Args:
        registry: the dashboard's lanes.
        model: its name.
        gpu: the machine that takes the walk has an NVIDIA GPU.
        node: that machine's name in the cluster; None for this one.
    """
    local = lanes_at(registry, node)
    others = [lane for lane in registry.lanes if lane.model and lane.node not in (node, None)]
    spec = registry.model(model) if model else _first_text_model(local, others)
    own = [lane for lane in local if lane.model == spec]
    base = _first(own, EngineKind.TRANSFORMERS)
    turbomind = _first(own, EngineKind.TURBOMIND)
    awq = _first(own, EngineKind.AWQ)
    if gpu:
        turbomind = turbomind or LaneSpec(name="walk-turbomind", kind=EngineKind.TURBOMIND, model=spec)
        awq = awq or LaneSpec(name="walk-awq", kind=EngineKind.AWQ, model=spec, weights=Weights.AWQ)
        awq = replace(awq, settings=replace(awq.settings, cache_max_entry_count=AWQ_RATIO))
    vision = [lane for lane in local if is_for_images(lane)]
    return WalkPlan(
        model=spec,
        transformers=base or LaneSpec(name="walk-hf", kind=EngineKind.TRANSFORMERS, model=spec),
        turbomind=turbomind,
        awq=awq,
        vision=_first(vision, EngineKind.PYTORCH) if gpu else _first(vision, EngineKind.TRANSFORMERS),
        left_out=tuple(lane for lane in others if lane.model == spec or is_for_images(lane)),
    )


def _first_text_model(lanes: Sequence[LaneSpec], others: Sequence[LaneSpec]) -> ModelSpec:
    for lane in lanes:
        if lane.model is not None and lane.weights is Weights.CHECKPOINT and not is_for_images(lane):
            return lane.model
    if others:
        raise InputError(
            N_("All lanes with a model belong to other nodes: {lanes}.", lanes=with_nodes(others)),
            hint=N_("Start the walk on one of these nodes, or name a model."),
        )
    raise InputError(
        N_("No local lane has a text model."),
        hint=N_("Prepare the demo weights with `lmdyno models demo`, or add a model to lanes.toml."),
    )


def _first(lanes: Sequence[LaneSpec], kind: EngineKind) -> LaneSpec | None:
    return next((lane for lane in lanes if lane.kind is kind and lane.weights is not Weights.GGUF), None)


@dataclass(frozen=True, slots=True)
class _Step:
    kind: StepKind
    take: Callable[[Notes], Awaitable[None]]
    obstacle: Text | None = None
    """Why it can't run on this machine."""


class Walk:
    """One walk. `on_step` gets it after each step, `tell` what is waited for; runs in a process of its
    own."""

    def __init__(
        self,
        plan: WalkPlan,
        *,
        walker: Walker,
        nvml: Nvml,
        run: WalkRun,
    ) -> None:
        self._plan = plan
        self._walker = walker
        self._gpu = bool(nvml.devices())
        self.run = replace(run, machine=describe_machine(nvml))
        """The walk so far."""

    def take(self, on_step: Callable[[WalkRun], None], tell: Callable[[Text, float], None]) -> WalkRun:
        """Take every step; a failed one is that step's result."""
        steps = self._steps()
        for place, step in enumerate(steps):
            tell(STEP_TEXTS[step.kind].title, place / len(steps))
            self.run = replace(self.run, steps=(*self.run.steps, self._taken(step)))
            on_step(self.run)
        return self.run

    def _taken(self, step: _Step) -> StepResult:
        if step.obstacle is not None:
            return StepResult(kind=step.kind, state=StepState.SKIPPED, reason=step.obstacle)
        notes, began, error = Notes(), time.monotonic(), None
        try:
            asyncio.run(_awaited(step.take(notes)))
        except LMDynoError as problem:
            log.warning("walk step failed step=%s code=%s", step.kind, problem.code)
            error = ErrorInfo.of(problem)
        return StepResult(
            kind=step.kind,
            state=StepState.FAILED if error else StepState.DONE,
            duration_s=time.monotonic() - began,
            by_hand=notes.by_hand,
            figures=tuple(notes.figures),
            answers=tuple(notes.answers),
            notes=tuple(notes.notes),
            error=error,
        )

    def _steps(self) -> Sequence[_Step]:
        walker, plan = self._walker, self._plan
        turbomind = self._obstacle(plan.turbomind)
        awq = self._obstacle(plan.awq, weights=False)
        image = self._obstacle(plan.vision)
        base = self._obstacle(plan.transformers)
        needs_gpu = None if self._gpu else N_("Needs an NVIDIA GPU.")

        def chat(lane: LaneSpec | None) -> Callable[[Notes], Awaitable[None]]:
            async def take(notes: Notes) -> None:
                assert lane is not None
                await walker.chat(lane, notes)

            return take

        return (
            _Step(StepKind.ENVIRONMENT, walker.environment),
            _Step(StepKind.TRANSFORMERS, chat(plan.transformers), base),
            _Step(StepKind.TURBOMIND, chat(plan.turbomind), turbomind),
            _Step(StepKind.KV_CACHE, walker.kv_cache, needs_gpu or turbomind),
            _Step(StepKind.QUANTISE, walker.quantise, needs_gpu or awq),
            _Step(StepKind.AWQ, chat(plan.awq), awq),
            _Step(StepKind.SERVER, walker.server, base if plan.turbomind is None else turbomind),
            _Step(StepKind.PIPELINE, walker.pipeline, needs_gpu or turbomind),
            _Step(StepKind.IMAGE, walker.image, image),
            _Step(StepKind.PUBLISH, walker.publish),
        )

    def _obstacle(self, lane: LaneSpec | None, *, weights: bool = True) -> Text | None:
        """Return why the lane can't run here; missing weights don't count where a step makes them
        (`weights`).
        """
        if lane is None:
            return N_("No lane on this machine supports this.") if self._gpu else N_("Needs an NVIDIA GPU.")
        problem = can_run(lane, gpu=self._gpu)
        if problem is None or (not weights and problem.code == "weights-missing"):
            return None
        return N_("{problem} {hint}", problem=problem.message, hint=problem.hint)


async def _awaited(work: Awaitable[None]) -> None:
    await work


def summary(run: WalkRun) -> str:
    """Return how the walk went, in one sentence."""
    counts = {state: sum(step.state is state for step in run.steps) for state in StepState}
    return _(
        "{done} steps done, {skipped} skipped, {failed} failed",
        done=counts[StepState.DONE],
        skipped=counts[StepState.SKIPPED],
        failed=counts[StepState.FAILED],
    )


def work(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    """Take every step, here or on the node that the arguments name; the walk is saved after each."""
    return _take_on_node(arguments, report) if arguments.get(_FOLLOW) else _take_here(arguments, report)


def _take_here(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    process_setup.configure_logs()
    settings, node = load_settings(), arguments.get("node")
    if node is None:
        walk = take_walk(settings, arguments["model"], arguments["id"], report)
    else:
        walk = take_walk(
            walk_settings(settings),
            arguments["model"],
            arguments["id"],
            report,
            node=node,
            lanes=decode(LaneRegistry, json.dumps(arguments["lanes"])),
        )
    return {"walk": walk.id}


def _take_on_node(arguments: Mapping[str, Any], report: Report) -> Mapping[str, Any]:
    """Have the node take the walk; it is saved here after each step, and in the history when it ends."""
    settings, node, walk_id = load_settings(), arguments["node"], arguments["id"]
    spec = JobSpec(
        kind=JOB_KIND,
        title=walk_title(arguments["model"], node),
        worker=_WORKER,
        arguments={name: value for name, value in arguments.items() if name != _FOLLOW},
        python=sys.executable,
    )
    outcome = run_file(walk_settings(settings), walk_id).relative_to(settings.home)
    try:
        return follow(
            settings,
            node,
            NodeJob(spec=spec, outcome=str(outcome)),
            report,
            lambda content: save(settings, decode(WalkRun, content)),
        )
    finally:
        if (taken := load(settings, walk_id)) is not None:
            # The node tells nothing more of a walk that is cancelled here.
            stopped = replace(taken, state=RunState.STOPPED)
            keep(settings, stopped if taken.state is RunState.RUNNING else taken)


def walk_settings(settings: Settings) -> Settings:
    """The settings of walks on a node with that home."""
    home = settings.home / "walk"
    return replace(
        settings,
        home=home,
        lanes_file=home / "lanes.toml",
        lanes_named=False,
        database_url=f"sqlite:///{home / 'lmdyno.db'}",
    )


def main() -> int:
    # Ends the engines and keeps the steps on the way out; by default the signal ends the process at once.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    return run(work)


if __name__ == "__main__":
    sys.exit(main())
