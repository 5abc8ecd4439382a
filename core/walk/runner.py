"""Walk through all steps in the tutorial's order; a step that can't run here is skipped with its reason."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from core.doctor.fitness import can_run
from core.domain.specs import LaneSpec
from core.domain.turns import ErrorInfo
from core.domain.walk import STEP_TEXTS, StepKind, StepResult, StepState, WalkRun
from core.errors import LMDynoError
from core.i18n import N_, Text, _
from core.telemetry.machine import describe_machine
from core.telemetry.nvml import Nvml
from core.walk.plan import WalkPlan
from core.walk.steps import Notes, Walker

log = logging.getLogger(__name__)


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
