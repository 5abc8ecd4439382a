"""What runs on each node: an engine manager and a sampler behind one function that takes and gives bytes.

It imports no Ray, so it can be tried without a cluster; `core.cluster.ray_fabric` makes an actor of it.
Engines are this process's children and survive it: the next agent in the same folder adopts them. With nobody
asking, engines that don't outlive LMDyno end after LMDYNO_END_ENGINES_AFTER seconds: the agent sees to it as
long as it lives, the home's guardian when it was killed.
"""

import logging
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from core import __version__
from core.access.guard import acting_as
from core.access.identity import SYSTEM
from core.cluster.jobs import do_job, start_load_process
from core.cluster.protocol import Answer, NodeReport, Request, Verb, Weighed
from core.codec import decode, encode
from core.domain.specs import EngineKind, LaneSpec
from core.domain.turns import ErrorInfo, utc_now
from core.engines.launch.table import LAUNCH_TABLE, LaunchRow, need_of
from core.engines.manager import EngineManager
from core.engines.placement import GpuView, wants_gpu
from core.engines.registry import EngineEntry, Registry, lease
from core.engines.resolve import NodeEngine
from core.engines.status import EngineWatch
from core.engines.supervisor import TERM_GRACE_S
from core.errors import EngineLoadFailed, InputError, LMDynoError
from core.files import close_to_others, keep_to_oneself
from core.i18n import N_
from core.settings import Settings
from core.telemetry.nvml import Nvml
from core.telemetry.sampler import Sampler
from core.telemetry.samples import GpuFacts
from core.telemetry.series import WindowStats

log = logging.getLogger(__name__)

_LOOK_S = 0.5
_GPU_FACTS_S = 1.0
"""How long the bytes that are free on the GPUs are taken for true."""


class Agent:
    """The engines of one node. Thread-safe; a slow answer delays no other."""

    def __init__(
        self,
        home: str,
        node: str,
        address: str,
        *,
        rows: Mapping[EngineKind, LaunchRow] = LAUNCH_TABLE,
        ray_version: str | None = None,
        token_auth: bool | None = None,
        grace_s: float = TERM_GRACE_S,
    ) -> None:
        """Adopts what an agent before it left; starts nothing else.

        Args:
            home: the folder on the node for logs, state and locks of its engines.
            node: its name in the cluster.
            address: where its engines listen, as others reach it.
            rows: how each kind of engine is launched.
            ray_version: told in reports.
            token_auth: whether Ray asks for a token here; told in reports.
            grace_s: seconds between SIGTERM and SIGKILL.
        """
        keep_to_oneself()
        self._home = Path(home)
        self._node = node
        self._address = address
        self._rows = rows
        self._ray_version = ray_version
        self._token_auth = token_auth
        self._grace_s = grace_s
        self._nvml = Nvml()
        self._lock = threading.Lock()
        """Protects what follows."""
        self._settings = Settings(home=self._home, lanes_file=self._home / "lanes.toml", database_url="")
        """Of whoever asked first."""
        self._registry = Registry(self._settings)
        self._end_after_s: float | None = None
        self._managers: dict[bool, EngineManager] = {}
        """By whether their engines outlive LMDyno."""
        self._lanes: dict[str, LaneSpec] = {}
        self._leases: dict[str, ExitStack] = {}
        self._told: tuple[NodeEngine, ...] = ()
        # A number that no agent before had, or an old engine list would be taken for the newest.
        self._revision = time.time_ns()
        self._gpu_facts: tuple[float, tuple[GpuFacts, ...]] = (-_GPU_FACTS_S, ())
        self._asked_s = time.monotonic()
        self._sampler: Sampler | None = None
        self._closed = threading.Event()
        close_to_others(self._home)

    def answer(self, request: bytes) -> bytes:
        """Do what a `Request` says and return an `Answer`; never raises."""
        try:
            asked = decode(Request, request)
            if asked.lmdyno_version != __version__:
                raise _other_version(self._node, asked.lmdyno_version)
            with acting_as(SYSTEM):  # whoever asks has authorised it
                answer = self._do(asked)
        except LMDynoError as error:
            answer = Answer(error=ErrorInfo.of(error))
        except Exception as error:
            log.exception("request failed")
            answer = Answer(
                error=ErrorInfo(
                    code="node-failed",
                    message=N_("Node {node} failed: {reason}", node=self._node, reason=repr(error)),
                    hint=N_("See the log of Ray's worker on the node."),
                ),
            )
        return encode(answer)

    def close(self) -> None:
        """End the engines that don't outlive LMDyno, and the threads."""
        self._closed.set()
        if self._sampler:
            self._sampler.close()
        for manager in tuple(self._managers.values()):
            manager.close()

    def _do(self, asked: Request) -> Answer:
        settings = self._configure(asked)
        lane = asked.lane
        if asked.verb is Verb.REPORT:
            self._hold(settings, asked.in_use)
            return Answer(report=self._report(asked.revision))
        if asked.verb is Verb.LOAD:
            return Answer(port=start_load_process(self._home, self._address, asked.secret))
        if asked.verb in (Verb.MARK, Verb.WINDOW):
            return Answer(window=self._measure(asked))
        if asked.job is not None:
            return Answer(news=do_job(settings, asked.verb, asked.job))
        if lane is None:
            raise InputError("A lane is missing")
        manager = self._manager(persistent=asked.persistent)
        match asked.verb:
            case Verb.WEIGH:
                return Answer(weighed=self._weigh(lane))
            case Verb.ENSURE:
                manager.ensure(lane.name)
            case Verb.RESTART:
                self._let_go(lane.name)
                manager.restart(lane.name)
            case Verb.STOP:
                self._let_go(lane.name)
                manager.stop(lane.name, force=asked.force)
            case Verb.LOG:
                text = manager.log_tail(lane.name, asked.lines, replica=asked.replica)
                return Answer(text=text)
            case _:
                raise InputError(f"Agents don't do {asked.verb}")
        return Answer(report=self._report(asked.revision))

    def _configure(self, asked: Request) -> Settings:
        """Take the request's settings and lane; a sign of life too."""
        with self._lock:
            self._asked_s = time.monotonic()
            settings = replace(self._settings, end_engines_after=asked.end_engines_after)
            self._end_after_s = settings.end_engines_after_s
            if self._sampler is None:
                self._settings = settings
                self._managers[False] = self._make_manager(persistent=False)
                self._managers[False].adopt_orphans()
                self._sampler = Sampler(self._nvml, EngineWatch(settings))
                self._sampler.start()
                threading.Thread(target=self._end_when_alone, name="agent-alone", daemon=True).start()
            if asked.lane is not None and self._lanes.get(asked.lane.name) != asked.lane:
                self._lanes[asked.lane.name] = asked.lane
                for manager in self._managers.values():
                    manager.configure(tuple(self._lanes.values()))
            return self._settings

    def _manager(self, *, persistent: bool) -> EngineManager:
        with self._lock:
            if persistent not in self._managers:
                self._managers[persistent] = self._make_manager(persistent=persistent)
            return self._managers[persistent]

    def _make_manager(self, *, persistent: bool) -> EngineManager:
        left = {entry.name: entry.lane for entry in self._registry.read().values()}
        self._lanes = left | self._lanes
        gpu: GpuView | None = self._nvml if self._nvml.devices() else None
        return EngineManager(
            self._settings,
            tuple(self._lanes.values()),
            persistent=persistent,
            gpu=gpu,
            rows=self._rows,
            grace_s=self._grace_s,
            host=self._address,
        )

    def _report(self, known_revision: int) -> NodeReport:
        at = utc_now()
        engines = self._engines()
        with self._lock:
            if engines != self._told:
                self._told, self._revision = engines, self._revision + 1
            revision = self._revision
        samples = self._sampler.samples() if self._sampler else ()
        return NodeReport(
            at=at,
            lmdyno_version=__version__,
            revision=revision,
            engines=None if revision == known_revision else engines,
            gpus=self._gpus(),
            sample=replace(samples[-1]) if samples else None,
            ray_version=self._ray_version,
            token_auth=self._token_auth,
            home=str(self._home),
        )

    def _engines(self) -> tuple[NodeEngine, ...]:
        manager = self._manager(persistent=False)
        return tuple(self._engine_of(manager, entry) for entry in self._registry.read().values())

    def _engine_of(self, manager: EngineManager, entry: EngineEntry) -> NodeEngine:
        status = manager.status(entry.name)
        endpoint = entry.endpoint if status.url else None
        return NodeEngine(
            lane=entry.lane,
            state=status.state,
            since=status.since,
            start_id=entry.start_id,
            pid=status.pid,
            port=status.port,
            endpoint=replace(endpoint, node=self._node) if endpoint else None,
            stage=status.stage,
            last_log_line=status.last_log_line,
            error=self._named(status.error) if status.error else None,
            gpus=entry.gpus,
            gpu_bytes=entry.gpu_bytes,
            replicas=status.replicas,
            persistent=entry.owner is None,
        )

    def _named(self, error: ErrorInfo) -> ErrorInfo:
        """The error with the node's name, as paths and devices in it are the node's."""
        message = N_("Node {node}: {problem}", node=self._node, problem=error.message)
        return replace(error, message=message)

    def _gpus(self) -> tuple[GpuFacts, ...]:
        read_s, facts = self._gpu_facts
        if time.monotonic() - read_s >= _GPU_FACTS_S:
            facts = self._nvml.devices()
            self._gpu_facts = (time.monotonic(), facts)
        return facts

    def _weigh(self, lane: LaneSpec) -> Weighed:
        """Raises EngineLoadFailed for a lane that can't run here at all."""
        row = self._rows[lane.kind]
        gpus = self._nvml.devices()
        if not wants_gpu(lane, needs_gpu=row.needs_gpu, gpus=gpus):
            raise EngineLoadFailed(
                N_("Node {node} has no NVIDIA GPU.", node=self._node),
                hint=N_("Choose another node."),
                code="no-gpu",
            )
        need = need_of(lane, row)
        pinned = lane.settings.devices
        usable = sorted(
            (gpu for gpu in gpus if pinned is None or gpu.index in pinned),
            key=lambda gpu: -(gpu.free_bytes or 0),
        )[: lane.settings.gpu_count]
        if len(usable) < lane.settings.gpu_count:
            return Weighed(fits=False, free_bytes=None, need_bytes=None)
        free_bytes = usable[-1].free_bytes
        return Weighed(
            fits=free_bytes is None or need.fits(free_bytes),
            free_bytes=free_bytes,
            need_bytes=None if free_bytes is None else need.total_bytes(free_bytes),
        )

    def _measure(self, asked: Request) -> WindowStats | None:
        assert self._sampler is not None
        if asked.verb is Verb.MARK:
            self._sampler.sample()
            return None
        now_ns = time.perf_counter_ns()
        start_ns, end_ns = (now_ns - int(ago_s * 1e9) for ago_s in (asked.since_s, asked.until_s))
        return self._sampler.window(start_ns, end_ns)

    def _hold(self, settings: Settings, in_use: tuple[str, ...]) -> None:
        """Hold the leases of these lanes, and of no others, as their requests run elsewhere."""
        with self._lock:
            for name in set(self._leases) - set(in_use):
                self._leases.pop(name).close()
            for name in set(in_use) - set(self._leases):
                held = ExitStack()
                try:
                    held.enter_context(lease(settings, name))
                except LMDynoError:
                    continue  # it is being stopped
                self._leases[name] = held

    def _let_go(self, name: str) -> None:
        """Whoever stops an engine has seen to it that nobody uses it."""
        with self._lock:
            if held := self._leases.pop(name, None):
                held.close()

    def _end_when_alone(self) -> None:
        while not self._closed.wait(_LOOK_S):
            with self._lock:
                after_s, silent_s = self._end_after_s, time.monotonic() - self._asked_s
            if after_s is not None and silent_s > after_s:
                self._hold(self._settings, ())
                self._end_engines()

    def _end_engines(self) -> None:
        manager = self._manager(persistent=False)
        for engine in self._engines():
            if engine.pid is not None and not engine.persistent:
                log.warning("nobody asks any more lane=%s, ending its engine", engine.name)
                with acting_as(SYSTEM):
                    manager.stop(engine.name, force=True)


def _other_version(node: str, version: str) -> EngineLoadFailed:
    return EngineLoadFailed(
        N_("Node {node} has LMDyno {there}, but this is {here}.", node=node, there=__version__, here=version),
        hint=N_("Install the same version on the node, then start Ray there again."),
        code="node-version",
    )
