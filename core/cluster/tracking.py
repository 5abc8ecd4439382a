"""What is known of the nodes: the answers, silence and engines of each, and which has room for a lane.

A lane that names no node goes where the most GPU memory stays free.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from core.cluster.protocol import Answer, FabricNode, NodeReport
from core.domain.specs import LaneSpec
from core.domain.turns import ErrorInfo, utc_now
from core.engines.registry import EngineState
from core.engines.resolve import Node, NodeEngine
from core.errors import EngineLoadFailed, EngineOutOfMemory, LMDynoError
from core.i18n import N_, Text
from core.units import duration, gib

SILENT_S = 4.0
"""A node whose agent hasn't answered for so long can't be used: with the time between two looks, a dead one
is told within 5 s."""
_ARRIVAL_S = 30.0
"""How long a node that is new may take to start its agent before that is told as a fault."""
_UP = (EngineState.STARTING, EngineState.HEALTHY, EngineState.STOPPING)


@dataclass(slots=True)
class TrackedNode:
    """One node by its name; changes as the fabric and the agent tell. Belongs to one event loop."""

    fabric: FabricNode
    """As it joined last."""
    replaced: set[str] = field(default_factory=set)
    """Ids that it had before it joined again."""
    seen_s: float = field(default_factory=time.monotonic)
    """When it joined, on the monotonic clock."""
    answered_s: float | None = None
    """When the agent answered last, on the monotonic clock."""
    reported_at: datetime | None = None
    report: NodeReport | None = None
    """Of the agent that runs there now."""
    engines: tuple[NodeEngine, ...] = ()
    refusal: ErrorInfo | None = None
    """What the agent answered instead of a report."""
    last_failure: str = ""
    """Why the last question got no answer, in the fabric's words."""

    def joined(self, fabric: FabricNode) -> None:
        """Take what the fabric says of it now; after a restart of Ray there, its agent is a new one."""
        if fabric.node_id != self.fabric.node_id:
            self.replaced.add(self.fabric.node_id)
            self.seen_s = time.monotonic()
            self.answered_s = None
            self.report = None
        self.fabric = fabric

    @property
    def revision(self) -> int:
        """Of the engines that are known; -1 for none."""
        return self.report.revision if self.report else -1

    def reported(self, report: NodeReport) -> None:
        """Take the agent's report."""
        self.answered_s = time.monotonic()
        self.reported_at = utc_now()
        self.refusal = None
        self.last_failure = ""
        self.report = report
        if report.engines is not None:
            self.engines = report.engines

    def refused(self, error: ErrorInfo) -> None:
        """The agent answers, but can't do its work."""
        self.answered_s = time.monotonic()
        self.refusal = error

    def failed(self, reason: str) -> None:
        """No answer came."""
        self.last_failure = reason

    @property
    def is_joining(self) -> bool:
        """Whether its first answer is still waited for."""
        if self.answered_s is not None or not self.fabric.alive:
            return False
        return time.monotonic() - self.seen_s < _ARRIVAL_S

    def problem(self) -> ErrorInfo | None:
        """Why no lane can use the node now; None while its agent answers."""
        if not self.fabric.alive:
            return self._silent()
        if self.refusal is not None:
            return self.refusal
        if self.answered_s is not None:
            return self._silent() if time.monotonic() - self.answered_s > SILENT_S else None
        if self.is_joining:
            return ErrorInfo(
                code="node-joining",
                message=N_("LMDyno is starting its agent on node {node}.", node=self.fabric.name),
                hint=N_("Try again in a few seconds."),
            )
        return ErrorInfo(
            code="node-agent-missing",
            message=N_(
                "LMDyno's agent doesn't start on node {node}: {reason}",
                node=self.fabric.name,
                reason=self.last_failure or "–",
            ),
            hint=N_(
                "The Python that runs Ray on the node needs LMDyno of the same version. See the logs of "
                "Ray's workers on the node."
            ),
        )

    def _silent(self) -> ErrorInfo:
        name = self.fabric.name
        if self.reported_at is None:
            message = N_("Node {node} doesn't answer.", node=name)
        else:
            silent_s = max(0.0, (utc_now() - self.reported_at).total_seconds())
            message = N_("Node {node} stopped answering {time} ago.", node=name, time=duration(silent_s))
        return ErrorInfo(
            code="node-silent",
            message=message,
            hint=N_(
                "Check the machine and its network. If Ray has ended there, start it again under the same "
                "name: `ray start --address=… --node-name={node}`. Its engines are then taken over.",
                node=name,
            ),
        )

    def node(self) -> Node:
        """As a snapshot holds it."""
        report, reported_at = self.report, self.reported_at
        offset_s = (report.at - reported_at).total_seconds() if report and reported_at else 0.0
        return Node(
            name=self.fabric.name,
            node_id=self.fabric.node_id,
            address=self.fabric.address,
            problem=self.problem(),
            reported_at=reported_at,
            clock_offset_s=round(offset_s, 2),
            cores=self.fabric.cores,
            memory_bytes=self.fabric.memory_bytes,
            gpus=report.gpus if report else (),
            ray_version=report.ray_version if report else None,
            lmdyno_version=report.lmdyno_version if report else None,
            token_auth=report.token_auth if report else None,
            home=report.home if report else None,
            engines=self.engines,
            sample=report.sample if report else None,
        )

    def engine(self, lane: str) -> NodeEngine | None:
        return next((engine for engine in self.engines if engine.name == lane), None)

    def has_up(self, lane: str) -> bool:
        """Whether the lane's engine starts, runs or stops there, as far as is known."""
        engine = self.engine(lane)
        return engine is not None and engine.state in _UP


def newest_nodes(listed: tuple[FabricNode, ...], known: dict[str, TrackedNode]) -> tuple[FabricNode, ...]:
    """One node for each name.

    While Ray has not yet noticed that a node ended, one that was started again under its name is listed
    beside it: then the one that is new here is taken.
    """

    def is_newer(node: FabricNode) -> tuple[bool, bool, bool]:
        former = known.get(node.name)
        is_replaced = former is not None and node.node_id in former.replaced
        return node.alive, not is_replaced, former is None or node.node_id != former.fabric.node_id

    by_name: dict[str, FabricNode] = {}
    for node in listed:
        other = by_name.get(node.name)
        if other is None or is_newer(node) > is_newer(other):
            by_name[node.name] = node
    return tuple(by_name.values())


def choose_node(lane: LaneSpec, answers: Mapping[str, Answer | BaseException]) -> str:
    """The node for a lane, by what each agent said of its room.

    Args:
        lane: names no node.
        answers: to WEIGH, by the node's name; an exception where there was none.

    Raises:
        EngineOutOfMemory: nodes with GPUs answered, and it fits on none.
        EngineLoadFailed: no node can run it at all; the hint names each with its reason.
    """
    rooms = {
        name: answer.weighed
        for name, answer in answers.items()
        if isinstance(answer, Answer) and answer.weighed is not None
    }
    fitting = {name: room for name, room in rooms.items() if room.fits}
    if fitting:

        def left_bytes(name: str) -> int:
            room = fitting[name]
            return (room.free_bytes or 0) - (room.need_bytes or 0)

        return max(sorted(fitting), key=left_bytes)
    if rooms:
        raise EngineOutOfMemory(
            N_("{lane} fits on no node of the cluster.", lane=lane.name),
            hint=N_(
                "Stop an engine, lower cache_max_entry_count, or choose a smaller model. Free now: {rooms}.",
                rooms=", ".join(f"{name} {gib(room.free_bytes)}" for name, room in sorted(rooms.items())),
            ),
            code="cluster-full",
        )
    raise EngineLoadFailed(
        N_("No node of the cluster can run {lane}.", lane=lane.name),
        hint=_reasons(answers) or N_("No node answers. Check with `ray status` whether the cluster runs."),
        code="no-node",
    )


def _reasons(answers: Mapping[str, Answer | BaseException]) -> Text:
    return " ".join(
        f"{name}: {answer.message}"
        for name, answer in sorted(answers.items())
        if isinstance(answer, LMDynoError)
    )
