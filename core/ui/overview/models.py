"""Which lanes a scorecard can compare: those of one model, or all of them."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from core.domain.specs import LaneSpec

ALL_LANES = ""
"""The group of all lanes, whatever their models."""


def lanes_by_model(lanes: Sequence[LaneSpec]) -> dict[str, tuple[LaneSpec, ...]]:
    """The lanes by the name of their model, those of the first lane's model first; then all together.

    If no two lanes have one model, there is only the group of all.
    """
    groups: dict[str, list[LaneSpec]] = {}
    for lane in lanes:
        groups.setdefault(_model_of(lane), []).append(lane)
    everything = {ALL_LANES: tuple(lanes)} if lanes else {}
    if len(groups) == 1:
        return {name: tuple(group) for name, group in groups.items()}
    if all(len(group) == 1 for group in groups.values()):
        return everything
    return {name: tuple(group) for name, group in groups.items()} | everything


def _model_of(lane: LaneSpec) -> str:
    """An endpoint that names no model is a model of its own, called after its server."""
    if lane.model:
        return lane.model.name
    assert lane.endpoint is not None
    return lane.endpoint.model or urlsplit(lane.endpoint.url).netloc
