"""Choose what a walk uses: the model's lanes on its machine, its prompts and an image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from core.config import LaneRegistry
from core.domain.specs import EngineKind, LaneSpec, ModelSpec, Weights
from core.errors import InputError
from core.i18n import N_
from core.models.vision import is_for_images

PROMPTS = ("What is the capital of Japan?", "Explain what a GPU is.")
"""Prompts on which the demo model answers alike in every number format, so lanes can be compared."""
IMAGE_QUESTIONS = ("How many shapes are there?", "What color is the circle?")
RATIOS = (0.8, 0.4, 0.05)
AWQ_RATIO = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkPlan:
    """The lanes of a walk; None where the machine has none of that kind."""

    model: ModelSpec
    transformers: LaneSpec | None
    turbomind: LaneSpec | None
    awq: LaneSpec | None
    vision: LaneSpec | None
    left_out: tuple[LaneSpec, ...] = ()
    """Lanes of the model, or with images, that belong to other nodes."""

    @property
    def lanes(self) -> tuple[LaneSpec, ...]:
        lanes = (self.transformers, self.turbomind, self.awq, self.vision)
        return tuple(lane for lane in lanes if lane is not None)


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


def with_nodes(lanes: Sequence[LaneSpec]) -> str:
    """Such as `fast (gpu-1), small (gpu-2)`."""
    return ", ".join(f"{lane.name} ({lane.node})" for lane in lanes)


def _first(lanes: Sequence[LaneSpec], kind: EngineKind) -> LaneSpec | None:
    return next((lane for lane in lanes if lane.kind is kind and lane.weights is not Weights.GGUF), None)
