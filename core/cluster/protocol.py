"""What the cluster's process is told, what it asks the agents on the nodes, and what carries that.

On the Unix socket each line is one JSON document (`core.codec`): a connection carries one `Command` and its
`Reply`. To an agent goes one `Request` as bytes, its `Answer` comes back as bytes, so that nothing but text
passes through the `Fabric` and an agent of another version is told apart before anything else is read. The
fabric is Ray (`core.cluster.ray_fabric`), or a stand-in in tests.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from core.domain.specs import ClusterSpec, LaneSpec, ModelSpec
from core.domain.turns import ErrorInfo
from core.engines.resolve import NodeEngine
from core.jobs.registry import JobRecord, JobSpec
from core.models.awq.options import AwqOptions
from core.settings import Settings
from core.telemetry.processes import ProcessId
from core.telemetry.samples import GpuFacts, Sample
from core.telemetry.series import WindowStats


class Verb(StrEnum):
    """What the cluster's process, or an agent, can be asked."""

    REPORT = "report"
    """Agents only: how the node and its engines are."""
    WEIGH = "weigh"
    """Agents only: whether the lane's engine would fit there."""
    ENSURE = "ensure"
    STOP = "stop"
    RESTART = "restart"
    LOG = "log"
    LOAD = "load"
    """Start a process there that sends requests of a load test."""
    MARK = "mark"
    """Take a sample now."""
    WINDOW = "window"
    """What the sampler says of a stretch of time."""
    JOB_START = "job-start"
    JOB_LOOK = "job-look"
    JOB_CANCEL = "job-cancel"
    CLOSE = "close"
    """End what belongs to the sender."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantisation:
    """A quantisation to W4A16 on a node."""

    model: ModelSpec
    options: AwqOptions
    own_python: bool = True
    """The node's own Python does it, whatever path the options name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeJob:
    """A background job on a node: what to start, or which one to look at."""

    id: str = ""
    """Of one that was started."""
    spec: JobSpec | None = None
    quantisation: Quantisation | None = None
    """What to start instead of `spec`; the node checks and plans it."""
    outcome: str = ""
    """The file with its results so far, below the home; "" for none."""
    seen: str = ""
    """Names the content of that file that is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobNews:
    """A background job on a node at one moment."""

    id: str
    record: JobRecord
    outcome: str | None = None
    """The results so far; None if they are as known, or there are none."""
    digest: str = ""
    """Names their content."""
    log: str = ""
    """The log's end, once the job has ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One line to the cluster's process."""

    verb: Verb
    sender: ProcessId
    lane: LaneSpec | None = None
    """As it is configured now."""
    since_s: float = 0.0
    """Seconds before the command at which the window begins."""
    until_s: float = 0.0
    """Seconds before the command at which it ends."""
    persistent: bool = False
    """The engine outlives the sender."""
    force: bool = False
    """End the engine even while it answers a request."""
    lines: int = 0
    """Of the log, from its end."""
    replica: int | None = None
    node: str = ""
    """Of LOAD, MARK, WINDOW and the jobs, which have no lane."""
    job: NodeJob | None = None
    secret: str = ""
    """Of LOAD: what the process is to be shown by whoever connects to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The answer to a command; `error` if it could not be done."""

    text: str = ""
    """The log's end."""
    node: str | None = None
    """Where the lane's engine is."""
    port: int | None = None
    """Of LOAD: where the process listens, on the node's address."""
    window: WindowStats | None = None
    news: JobNews | None = None
    error: ErrorInfo | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What one agent is asked."""

    verb: Verb
    lmdyno_version: str
    end_engines_after: str = "60"
    """How long engines may run with nobody asking, as LMDYNO_END_ENGINES_AFTER has it."""
    revision: int = -1
    """Of the newest `NodeReport` that is known; its engines needn't be told again."""
    in_use: tuple[str, ...] = ()
    """Lanes whose engines answer requests right now."""
    lane: LaneSpec | None = None
    persistent: bool = False
    force: bool = False
    lines: int = 0
    replica: int | None = None
    secret: str = ""
    since_s: float = 0.0
    until_s: float = 0.0
    job: NodeJob | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """A node at one moment."""

    at: datetime
    """By the node's clock."""
    lmdyno_version: str
    revision: int
    """Another one each time that `engines` differs; unique to one agent's life."""
    engines: tuple[NodeEngine, ...] | None = None
    """None if they are as in the revision that was known."""
    gpus: tuple[GpuFacts, ...] = ()
    sample: Sample | None = None
    ray_version: str | None = None
    token_auth: bool | None = None
    home: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """Whether a lane's engine would fit on a node now."""

    fits: bool
    free_bytes: int | None
    """Of the emptiest GPU that it would take, or of the fullest of several; None where unknown."""
    need_bytes: int | None
    """What it would take of that GPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An agent's answer; `error` if it could not be done."""

    report: NodeReport | None = None
    """To REPORT and what changes engines: how the node is afterwards."""
    weighed: Weighed | None = None
    window: WindowStats | None = None
    news: JobNews | None = None
    text: str = ""
    port: int | None = None
    error: ErrorInfo | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """The one line on the standard input of the cluster's process."""

    home: str
    cluster: ClusterSpec
    end_engines_after: str

    @property
    def settings(self) -> Settings:
        """Enough of the home's settings for engines: neither lanes nor the store."""
        home = Path(self.home)
        return Settings(
            home=home,
            lanes_file=home / "lanes.toml",
            database_url="",
            end_engines_after=self.end_engines_after,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FabricNode:
    """A node as the fabric knows it, whether or not an agent answers there."""

    name: str
    node_id: str
    """Another one each time that the node joins."""
    address: str
    alive: bool
    cores: int | None = None
    memory_bytes: int | None = None


class AgentGone(Exception):
    """The node's agent, or the node, can't be asked; the text says why, in the fabric's words."""


class FabricLost(Exception):
    """The cluster can't be reached at all; the text says why, in the fabric's words."""


class Fabric(Protocol):
    """The connection to one cluster. Belongs to one event loop."""

    async def nodes(self) -> tuple[FabricNode, ...]:
        """All nodes, those included that have ended. Raises FabricLost."""

    async def ask(self, node: FabricNode, request: bytes) -> bytes:
        """Have the node's agent answer a `Request`; one is made if there is none.

        May take for ever: callers set a limit. Raises AgentGone.
        """

    async def retire(self, node: FabricNode) -> None:
        """End the node's agent, if there is one; its engines are left as they are."""

    async def close(self) -> None:
        """Leave the cluster; agents stay."""
