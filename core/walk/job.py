"""Walks as background jobs, and the files they are kept in; a walk and its job have the same id.

A walk is a JSON file under `home/walks/`, written anew after every step, so that one that was stopped keeps
what it had. One that a node of the cluster takes is kept here in the same way.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from core import __version__
from core.access.guard import Action, authorise
from core.codec import encode
from core.config import LaneRegistry, load_lanes
from core.domain.runs import RunState
from core.domain.turns import new_id
from core.domain.walk import WalkRun, walk_title
from core.i18n import N_, Text
from core.jobs.records import load_outcome, outcome_file, save_outcome
from core.jobs.registry import Jobs
from core.settings import Settings
from core.store.run_tables import Walks
from core.telemetry.nvml import Nvml
from core.walk.plan import lanes_at, walk_plan
from core.walk.runner import Walk
from core.walk.steps import Walker

JOB_KIND = "walk"


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
        "core.walk.worker" if node is None else "core.walk.node_worker",
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
