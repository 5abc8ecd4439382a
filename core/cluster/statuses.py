"""The status of a lane's engine on a node, for display: by the node's newest report."""

from dataclasses import replace
from datetime import datetime

from core.domain.specs import LaneSpec
from core.domain.turns import utc_now
from core.engines.leases import in_use
from core.engines.nodes import node_trouble, read_snapshot
from core.engines.registry import EngineState
from core.engines.resolve import same_engine
from core.engines.status import EngineStatus, without_engine
from core.i18n import N_
from core.settings import Settings
from core.telemetry.processes import ProcessId

_SOON = ("cluster-connecting", "cluster-not-connected", "node-joining")
"""What passes by itself and is no failure of the lane."""


def node_status(
    settings: Settings, lane: LaneSpec, name: str | None, since: datetime, me: ProcessId
) -> EngineStatus:
    """The engine of a lane on the named node. Cheap.

    Args:
        settings: the home.
        lane: as it is configured now.
        name: None for a lane that has no node yet.
        since: for a lane whose engine was never started.
        me: this process, which may own the engine.
    """
    none = replace(without_engine(lane, since), node=name)
    if name is None:
        return none
    snapshot = read_snapshot(settings)
    if (problem := node_trouble(snapshot, name)) is not None:
        if problem.code in _SOON:
            return replace(none, stage=problem.message)
        return replace(none, state=EngineState.FAILED, error=problem)
    node = snapshot.node(name) if snapshot else None
    engine = node.engine(lane.name) if node else None
    if snapshot is None or node is None or engine is None:
        return none
    is_healthy = engine.state is EngineState.HEALTHY
    endpoint = engine.endpoint if is_healthy else None
    stage = engine.stage
    if is_healthy and stage is None and not same_engine(engine.lane, lane):
        stage = N_("Runs with its previous settings until you restart it")
    entered = node.since(engine)
    placement = snapshot.placement(lane.name)
    return EngineStatus(
        name=lane.name,
        lane=lane,
        state=engine.state,
        since=entered,
        elapsed_s=max(0.0, (utc_now() - entered).total_seconds()),
        pid=engine.pid,
        port=engine.port,
        url=endpoint.url if endpoint else None,
        version=endpoint.version if endpoint else None,
        device=endpoint.device if endpoint else None,
        stage=stage,
        last_log_line=engine.last_log_line,
        error=engine.error,
        in_use=is_healthy and in_use(settings, lane.name),
        finishing_s=None,
        owned=placement is not None and placement.owner == me,
        replicas=engine.replicas,
        node=name,
    )
