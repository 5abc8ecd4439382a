"""Where a lane's requests go right now: an engine of this machine, of a node of the cluster, or an endpoint.

Any LMDyno process can tell, from engines.json, nodes.json and the system. nodes.json has the nodes of the Ray
cluster, what runs there and which lane went where. The cluster's process (`core.cluster`) writes it about
once a second, every LMDyno process of the home reads it. The file is readable by its owner alone, since it
holds the keys of engines. Times are this machine's clock unless they say otherwise.
"""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from core.codec import decode
from core.config.endpoints import api_key
from core.domain.specs import Endpoint, EngineSettings, LaneSpec
from core.domain.turns import ErrorInfo, utc_now
from core.engines.diagnosis import ERROR_OF_CODE, explain_death
from core.engines.registry import EngineEntry, EngineState, Registry, Replica
from core.engines.supervisor import read_tail
from core.errors import ConfigError, EngineError, InputError
from core.i18n import N_, Text
from core.settings import Settings
from core.telemetry.processes import ProcessId
from core.telemetry.samples import GpuFacts, Sample
from core.units import duration

STALE_S = 5.0
"""A snapshot that is older was not followed by another: the cluster's process hangs."""

_UP = (EngineState.STARTING, EngineState.HEALTHY, EngineState.STOPPING)
_START_HINT = N_("Start it on the Engines page or with `lmdyno engines start {lane}`.")


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


def find_endpoint(settings: Settings, lane: LaneSpec) -> Endpoint | None:
    """The lane's endpoint; None while its engine is starting. Cheap, thread-safe, works in any process.

    Endpoint lanes resolve at once, with `model` "" where the lane names none.

    Raises:
        ConfigError: there is no such key, or it is not for the endpoint's host (`core.config.endpoints`).
        EngineError: the engine failed, died, runs with other settings, or does not run.
    """
    if lane.endpoint is not None:
        return _remote(settings, lane)
    entry = Registry(settings).get(lane.name)
    if (node := engine_node(settings, lane, entry)) is not None:
        return _on_node(settings, lane, node)
    if entry is None:
        raise _not_running(lane.name)
    _require_same(entry.lane, lane)
    now = observed(entry)
    if now.state is EngineState.STARTING:
        return None
    if now.state is EngineState.HEALTHY:
        if now.endpoint is None:
            return None
        return replace(now.endpoint, patience=lane.patience, log_file=entry.log_file)
    if now.error is not None:
        raise error_of(now.error)
    raise _not_running(lane.name)


def engine_node(settings: Settings, lane: LaneSpec, entry: EngineEntry | None) -> str | None:
    """The node that the lane's engine is or belongs on; None for this machine.

    `entry` is the lane's in engines.json: of a lane that may run anywhere, an engine here comes first.
    """
    if lane.node is not None:
        return lane.node
    if entry is not None and observed(entry).state in _UP:
        return None
    snapshot = read_snapshot(settings)
    return snapshot.node_of(lane) if snapshot else None


def _on_node(settings: Settings, lane: LaneSpec, name: str) -> Endpoint | None:
    snapshot = read_snapshot(settings)
    if problem := node_trouble(snapshot, name):
        raise error_of(problem)
    node = snapshot.node(name) if snapshot else None
    engine = node.engine(lane.name) if node else None
    if engine is None:
        raise _not_running(lane.name)
    _require_same(engine.lane, lane)
    if engine.state is EngineState.STARTING:
        return None
    if engine.state is EngineState.HEALTHY and engine.endpoint is not None:
        return replace(engine.endpoint, patience=lane.patience)
    if engine.error is not None:
        raise error_of(engine.error)
    raise _not_running(lane.name)


def _require_same(started: LaneSpec, lane: LaneSpec) -> None:
    if not same_engine(started, lane):
        raise EngineError(
            N_("The engine of {lane} runs with settings that the lane no longer has.", lane=lane.name),
            hint=N_("Restart it."),
            code="engine-settings-differ",
        )


def observed(entry: EngineEntry) -> EngineEntry:
    """The entry as the system shows it: an engine whose process is gone has failed, noticed or not."""
    if entry.state is EngineState.HEALTHY and not entry.alive:
        error = explain_death(read_tail(Path(entry.log_file)), None)
        return replace(entry, state=EngineState.FAILED, error=ErrorInfo.of(error))
    if entry.state in (EngineState.STARTING, EngineState.STOPPING) and not entry.worker.alive:
        error = EngineError(
            N_("LMDyno exited while it was starting {lane}.", lane=entry.name)
            if entry.state is EngineState.STARTING
            else N_("LMDyno exited while it was stopping {lane}.", lane=entry.name),
            hint=_START_HINT.filled(lane=entry.name),
            code="engine-start-abandoned",
        )
        return replace(entry, state=EngineState.FAILED, error=ErrorInfo.of(error))
    return entry


def same_engine(one: LaneSpec, other: LaneSpec) -> bool:
    """Whether both lanes are served by the same engine; how long a start may take makes no difference."""
    return _launched(one) == _launched(other)


def error_of(info: ErrorInfo) -> EngineError:
    """The error that a record kept, in its class again."""
    return ERROR_OF_CODE.get(info.code, EngineError)(info.message, hint=info.hint, code=info.code)


def _launched(lane: LaneSpec) -> tuple[object, ...]:
    settings = replace(lane.settings, start_timeout_s=EngineSettings().start_timeout_s)
    return (lane.kind, lane.model, lane.weights, settings)


def _remote(settings: Settings, lane: LaneSpec) -> Endpoint:
    spec = lane.endpoint
    assert spec is not None

    def key_of(name: str) -> str:
        try:
            return api_key(settings, name, spec.url)
        except ConfigError as error:
            message = N_("{lane} ({key}): {problem}", lane=lane.name, key=name, problem=error.message)
            raise ConfigError(message, hint=error.hint, code=error.code) from None

    headers = tuple(
        (name, key_of(value[1:]) if value.startswith("$") else value) for name, value in spec.request.headers
    )
    return Endpoint(
        url=spec.url.rstrip("/"),
        model=spec.model or "",
        dialect=spec.dialect,
        api_key=key_of(spec.api_key_name) if spec.api_key_name else None,
        request=replace(spec.request, headers=headers),
        patience=lane.patience,
        tokenizer=spec.tokenizer,
    )


def _not_running(name: str) -> EngineError:
    return EngineError(
        N_("The engine of {lane} isn't running.", lane=name),
        hint=_START_HINT.filled(lane=name),
        code="engine-not-running",
    )
