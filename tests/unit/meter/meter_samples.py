"""Plans, lanes and endpoints for the meter's tests."""

import json
from collections.abc import Iterator
from contextlib import contextmanager

from core.domain.conversation import Message, Role, Sampling
from core.domain.specs import Dialect, Endpoint, EndpointSpec, EngineKind, LaneSpec
from core.domain.turns import Mode, RequestPlan, TurnPlan

MESSAGES = (Message(Role.SYSTEM, "Be brief."), Message(Role.USER, "你好"))
GREEDY = Sampling(max_tokens=10_000)


def model(**scenario: object) -> str:
    """The model id that makes the scripted server play this scenario."""
    return json.dumps(scenario)


def endpoint(url: str, name: str, dialect: Dialect = Dialect.GENERIC, **more: str) -> Endpoint:
    return Endpoint(url=url, model=name, dialect=dialect, **more)


def remote_lane(name: str, url: str, model_name: str | None, dialect: Dialect = Dialect.GENERIC) -> LaneSpec:
    return LaneSpec(
        name=name,
        kind=EngineKind.ENDPOINT,
        endpoint=EndpointSpec(url=url, model=model_name, dialect=dialect),
    )


def turn_plan(*lanes: LaneSpec, mode: Mode = Mode.ONE_AFTER_ANOTHER, sampling: Sampling = GREEDY) -> TurnPlan:
    return TurnPlan(
        conversation_id="c1",
        prompt="你好",
        requests=tuple(RequestPlan(lane=lane, messages=MESSAGES) for lane in lanes),
        sampling=sampling,
        mode=mode,
    )


@contextmanager
def no_lease(_lane: str) -> Iterator[None]:
    yield


def resolve_remote(lane: LaneSpec) -> Endpoint:
    """Stands in for `core.engines.resolve` where only remote lanes are asked."""
    assert lane.endpoint is not None
    return Endpoint(
        url=lane.endpoint.url,
        model=lane.endpoint.model or "",
        dialect=lane.endpoint.dialect,
        version="script 1",
    )
