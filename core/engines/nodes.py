"""nodes.json: the nodes of the Ray cluster, what runs there and which lane went where.

The cluster's process (`core.cluster`) writes it about once a second, every LMDyno process of the home reads
it. The file is readable by its owner alone, since it holds the keys of engines. Times are this machine's
clock unless they say otherwise.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from core.codec import decode
from core.domain.specs import Endpoint, LaneSpec
from core.domain.turns import ErrorInfo, utc_now
from core.engines.registry import EngineState, Replica
from core.errors import InputError
from core.i18n import N_, Text
from core.settings import Settings
from core.telemetry.gpus import GpuFacts
from core.telemetry.processes import ProcessId
from core.telemetry.samples import Sample
from core.units import duration

STALE_S = 5.0
"""A snapshot that is older was not followed by another: the cluster's process hangs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeEngine:
    """One engine on a node, as the node's agent told it last."""

    lane: LaneSpec
    """With the settings that the engine was started with."""
    state: EngineState
    since: datetime
    """When it entered this state, on the node's clock."""
    start_id: str
    """Names this one start."""
    pid: int | None = None
    """On the node; None while it has no process."""
    port: int | None = None
    endpoint: Endpoint | None = field(default=None, repr=False)
    """Set while it is healthy; its `node` is the node's name, its URL has the node's address."""
    stage: Text | None = None
    """What it is doing, in words."""
    last_log_line: str = ""
    error: ErrorInfo | None = None
    gpus: tuple[int, ...] = ()
    """On the node."""
    gpu_bytes: int | None = None
    replicas: tuple[Replica, ...] = ()
    persistent: bool = False
    """It runs until somebody stops it."""

    @property
    def name(self) -> str:
        return self.lane.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node of the cluster."""

    name: str
    """Ray's NodeName; by default the node's address."""
    node_id: str
    """Ray's id, another one each time that Ray is started there."""
    address: str
    """Where its engines listen."""
    problem: ErrorInfo | None = None
    """Why no lane can use it now; None while its agent answers."""
    reported_at: datetime | None = None
    """When its agent answered last; None if it hasn't yet."""
    clock_offset_s: float = 0.0
    """The node's clock minus this machine's, in seconds, as far as an answer tells."""
    cores: int | None = None
    memory_bytes: int | None = None
    gpus: tuple[GpuFacts, ...] = ()
    """With the bytes that are free; empty without an NVIDIA GPU."""
    ray_version: str | None = None
    lmdyno_version: str | None = None
    token_auth: bool | None = None
    """Whether Ray asks for a token there; None while unknown."""
    home: str | None = None
    """The folder on the node with its engines' logs and state."""
    engines: tuple[NodeEngine, ...] = ()
    sample: Sample | None = None
    """The sampler's last; its `at_ns` is of the node's clock."""

    @property
    def alive(self) -> bool:
        """Whether lanes can use it."""
        return self.problem is None

    def silent_s(self, now: datetime | None = None) -> float | None:
        """Seconds since its agent answered last; None if it hasn't yet."""
        if self.reported_at is None:
            return None
        return max(0.0, ((now or utc_now()) - self.reported_at).total_seconds())

    def engine(self, lane: str) -> NodeEngine | None:
        return next((engine for engine in self.engines if engine.name == lane), None)

    def since(self, engine: NodeEngine) -> datetime:
        """Return when the engine entered its state, on this machine's clock."""
        return engine.since - timedelta(seconds=self.clock_offset_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The node that a lane's engine was started on last."""

    lane: str
    node: str
    owner: ProcessId | None = None
    """The LMDyno process that ends the engine when it ends itself; None for one that outlives it."""
    named: bool = False
    """The lane's `node` names it; otherwise it was chosen by free GPU memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSnapshot:
    """The cluster at one moment."""

    process: ProcessId
    """The cluster's process, which wrote this."""
    written_at: datetime
    address: str
    """Ray's, as `[cluster]` has it."""
    connected: bool = False
    problem: ErrorInfo | None = None
    """Why Ray can't be reached; None while it can, or while that is being tried for the first time."""
    nodes: tuple[Node, ...] = ()
    """Those that Ray knows, and those that it knew before and that lanes are on."""
    placements: tuple[Placement, ...] = ()

    def node(self, name: str) -> Node | None:
        return next((node for node in self.nodes if node.name == name), None)

    def lanes_on(self, node: Node) -> tuple[str, ...]:
        """The lanes whose engine runs or belongs on the node, by name."""
        placed = {placement.lane for placement in self.placements if placement.node == node.name}
        return tuple(sorted(placed | {engine.name for engine in node.engines if engine.pid is not None}))

    def placement(self, lane: str) -> Placement | None:
        return next((placement for placement in self.placements if placement.lane == lane), None)

    def node_of(self, lane: LaneSpec) -> str | None:
        """The name of the node that the lane's engine is or belongs on; None for this machine."""
        if lane.node is not None:
            return lane.node
        placement = self.placement(lane.name)
        return placement.node if placement else None


def nodes_file(settings: Settings) -> Path:
    return settings.home / "nodes.json"


_read: dict[Path, tuple[tuple[int, int, int], ClusterSnapshot | None]] = {}
"""The last content of each file by its timestamp, size and inode; replaced as a whole, so threads may share
it."""


def read_snapshot(settings: Settings) -> ClusterSnapshot | None:
    """The cluster as last written; None without one, or for a file of another version. Cheap, thread-safe.

    It may be old: `trouble` tells whether it can still be believed.
    """
    path = nodes_file(settings)
    try:
        stat = path.stat()
        stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        known = _read.get(path)
        if known is None or known[0] != stamp:
            known = _read[path] = (stamp, _decoded(path.read_bytes()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    return known[1]


def _decoded(data: bytes) -> ClusterSnapshot | None:
    try:
        return decode(ClusterSnapshot, data)
    except InputError:
        return None


def trouble(snapshot: ClusterSnapshot | None) -> ErrorInfo | None:
    """Return why nothing on any node can be used now; None while the cluster's process reports."""
    if snapshot is None:
        return _not_started()
    if not snapshot.process.alive:
        return snapshot.problem or ErrorInfo(
            code="cluster-process-died",
            message=N_("LMDyno's connection to the Ray cluster has ended."),
            hint=N_("The dashboard makes a new one. If it stays like this, see logs/cluster.log."),
        )
    if snapshot.problem is not None:
        return snapshot.problem
    if (age_s := (utc_now() - snapshot.written_at).total_seconds()) > STALE_S:
        return ErrorInfo(
            code="cluster-process-hangs",
            message=N_(
                "LMDyno's connection to the Ray cluster hasn't responded for {time}.", time=duration(age_s)
            ),
            hint=N_("Check with `ray status` whether the cluster runs."),
        )
    return None


def node_trouble(snapshot: ClusterSnapshot | None, name: str) -> ErrorInfo | None:
    """Return why the engines of that node can't be used now; None while its agent answers."""
    if (problem := trouble(snapshot)) is not None or snapshot is None:
        return problem
    node = snapshot.node(name)
    if node is not None:
        return node.problem
    if not snapshot.connected:
        return ErrorInfo(
            code="cluster-connecting",
            message=N_("LMDyno is still connecting to the Ray cluster."),
            hint=N_("Try again in a few seconds."),
        )
    return ErrorInfo(
        code="node-unknown",
        message=N_("The Ray cluster has no node {node}.", node=name),
        hint=N_(
            "Start Ray there with `ray start --address={address} --node-name={node}`, or correct node in "
            "lanes.toml. Nodes now: {names}.",
            address=snapshot.address,
            node=name,
            names=", ".join(node.name for node in snapshot.nodes) or "–",
        ),
    )


def _not_started() -> ErrorInfo:
    return ErrorInfo(
        code="cluster-not-connected",
        message=N_("LMDyno isn't connected to the Ray cluster."),
        hint=N_("Start the dashboard, or start the engine with `lmdyno engines start`."),
    )
