"""Walks as background jobs: all steps in the tutorial's order, and the files that a walk is kept in.

A step that can't run here is skipped with its reason. A walk is a JSON file under `home/walks/`, written anew
after every step, so that one that was stopped keeps what it had. One that a node of the cluster takes is kept
here in the same way. A walk and its job have the same id.

`python -m core.walk.job FOLDER FD` is the worker, started by `core.jobs`. On a node, the walk has a folder of
its own in the node's home: its engines listen where nobody else reaches them, so the node's agent must not
take them for engines of its lanes.
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
from core.codec import decode, encode
from core.config import LaneRegistry, load_lanes
from core.doctor.fitness import can_run
from core.domain.runs import RunState
from core.domain.specs import LaneSpec
from core.domain.turns import ErrorInfo, new_id
from core.domain.walk import STEP_TEXTS, StepKind, StepResult, StepState, WalkRun, walk_title
from core.errors import LMDynoError
from core.i18n import N_, Text, _
from core.jobs.registry import Jobs, load_outcome, outcome_file, save_outcome
from core.jobs.worker import Report, run
from core.settings import Settings, load_settings
from core.store.run_tables import Walks
from core.telemetry.nvml import Nvml, describe_machine
from core.walk.plan import WalkPlan, lanes_at, walk_plan
from core.walk.steps import Notes, Walker

JOB_KIND = "walk"

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
        arguments |= {"node": node, "lanes": json.loads(encode(lanes))}
    return Jobs(settings).start_module(
        JOB_KIND,
        "core.walk.job" if node is None else "core.walk.node_worker",
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
    """Take every step; the walk is saved after each."""
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
