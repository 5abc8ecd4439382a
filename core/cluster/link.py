"""How other LMDyno processes reach the cluster's process: find it, start it, ask it, keep it running.

Where the process of a home is says `cluster.json`, and who needs it a lock. Those who measure here ask it
what the nodes' machines did between two moments (`NodeWindows`). A node that doesn't answer has no figures,
which costs nobody a request.
"""

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.cluster.protocol import Command, Hello, Reply, Verb
from core.codec import decode, encode
from core.domain.specs import ClusterSpec
from core.engines.resolve import NodeEngine, error_of, read_snapshot, trouble
from core.errors import EngineCrashed, EngineError, EngineTimeout, InputError
from core.files import is_held, lock_path, private_folder, try_lock, unlock
from core.i18n import N_
from core.settings import PROJECT_ROOT, Settings
from core.telemetry.processes import ProcessId, this_process
from core.telemetry.series import WindowStats

log = logging.getLogger(__name__)

_COMMAND = (sys.executable, "-m", "core.cluster.process")
_START_S = 20.0
"""Until the process listens; it connects to Ray afterwards."""
_REPLY_S = 120.0
"""Connecting to Ray, starting an agent and stopping an engine take up to half a minute each."""
_CLOSE_S = 30.0
"""Engines have ten seconds to end, and as long again to be killed."""
_REPORTS_S = 20.0
_POLL_S = 0.05
_LOOK_S = 1.0
_RAY_TRIES = "RAY_NUM_REDIS_GET_RETRIES"
"""How often Ray tries to reach the head, about once a second. Its own 20 hide a wrong token for 40 s."""
_BACK_OFF_S = (1.0, 2.0, 5.0, 10.0, 30.0)
"""How long to wait before the process is started once more, by how often it has ended in a row."""
_STEADY_S = 60.0
"""After so long a life, an end counts as the first again."""

_PATIENCE_S = 0.1
"""Longer than anybody holds a lock just to look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Whereabouts:
    """A running cluster's process."""

    process: ProcessId
    address: str
    """The path of its Unix socket, in a folder that only its owner can enter."""
    cluster: ClusterSpec
    """What it is connected to."""


def whereabouts_file(settings: Settings) -> Path:
    return settings.home / "cluster.json"


def find_process(settings: Settings) -> Whereabouts | None:
    """The home's cluster process; None if none runs."""
    last = last_process(settings)
    return last if last is not None and last.process.alive else None


def last_process(settings: Settings) -> Whereabouts | None:
    """The home's newest cluster process, which may have been killed; None if the last one has left."""
    try:
        return decode(Whereabouts, whereabouts_file(settings).read_bytes())
    except (FileNotFoundError, InputError):
        return None


def process_lock(settings: Settings) -> Path:
    """Held by the cluster's process for as long as it lives."""
    return lock_path(settings.locks_dir, "cluster")


@contextmanager
def needed(settings: Settings) -> Iterator[None]:
    """Keep the cluster's process from ending for want of work; any number of holders."""
    descriptor = try_lock(_user_lock(settings), shared=True, patience_s=_PATIENCE_S)
    try:
        yield
    finally:
        if descriptor is not None:
            unlock(descriptor)


def is_needed(settings: Settings) -> bool:
    """Whether an LMDyno process needs the cluster's process."""
    return is_held(_user_lock(settings))


def _user_lock(settings: Settings) -> Path:
    return lock_path(settings.locks_dir, "cluster-user")


class ClusterLink:
    """The way to one home's cluster process, which starts when it is needed. Thread-safe."""

    def __init__(
        self, settings: Settings, cluster: ClusterSpec, *, command: Sequence[str] = _COMMAND
    ) -> None:
        """Starts nothing yet.

        Args:
            settings: the home.
            cluster: what to connect to.
            command: starts the process, which reads a `Hello` from its standard input.
        """
        self._settings = settings
        self._cluster = cluster
        self._command = command
        self._me = this_process()
        self._starting = threading.Lock()
        """Held while the process is started, so that one thread does it."""
        self._need = ExitStack()
        self._closed = threading.Event()
        self._keeper: threading.Thread | None = None

    def keep(self) -> None:
        """Have the process run from now on, until `close`, and start it again if it ends; returns at once."""
        with self._starting:
            if self._keeper is None and not self._closed.is_set():
                self._need.enter_context(needed(self._settings))
                self._keeper = threading.Thread(target=self._keep, name="cluster-keeper", daemon=True)
                self._keeper.start()

    def await_reports(self) -> None:
        """Need the process until `close`, start it if need be, and wait until all nodes have told what runs.

        Gives up after some seconds, or when Ray turns out to be out of reach: nodes.json then says so.
        Raises EngineCrashed if the process can't be started.
        """
        self._need.enter_context(needed(self._settings))
        deadline = time.monotonic() + _REPORTS_S
        while (whereabouts := self._running()).process.alive and time.monotonic() < deadline:
            snapshot = read_snapshot(self._settings)
            if snapshot is not None and snapshot.process == whereabouts.process:
                is_joining = any(
                    node.problem and node.problem.code == "node-joining" for node in snapshot.nodes
                )
                if trouble(snapshot) or (snapshot.connected and not is_joining):
                    return
            time.sleep(_POLL_S)

    def ask(
        self,
        verb: Verb,
        *,
        timeout_s: float = _REPLY_S,
        **fields: Any,  # noqa: ANN401 - those of a Command
    ) -> Reply:
        """Have the process do something, and start it if it doesn't run.

        Raises EngineError: the process or Ray can't be reached, or it could not be done.
        """
        command = Command(verb=verb, sender=self._me, **fields)
        with needed(self._settings):
            for _attempt in range(2):
                whereabouts = self._running()
                try:
                    return asked(whereabouts, command, timeout_s=timeout_s)
                except (ConnectionError, FileNotFoundError):
                    _await_end(whereabouts)
        snapshot = read_snapshot(self._settings)
        if snapshot is not None and snapshot.problem is not None:
            raise error_of(snapshot.problem)
        raise _unavailable(N_("it exits immediately"))

    def let_go(self) -> None:
        """Need the process no longer; engines that this process has started stay as they are."""
        self._closed.set()
        self._need.close()

    def close(self) -> None:
        """End the engines on nodes that this process has started, and need the process no longer."""
        self._closed.set()
        if find_process(self._settings) is not None:
            try:
                self.ask(Verb.CLOSE, timeout_s=_CLOSE_S)
            except EngineError as error:
                log.warning("engines on nodes not ended reason=%s", error.message)
        self._need.close()

    def _keep(self) -> None:
        ends = 0
        while not self._closed.is_set():
            began_s = time.monotonic()
            try:
                whereabouts = self._running()
                while whereabouts.process.alive:
                    if self._closed.wait(_LOOK_S):
                        return
            except EngineCrashed as error:
                log.warning("cluster's process not started reason=%s", error.message)
            ends = 0 if time.monotonic() - began_s > _STEADY_S else min(ends, len(_BACK_OFF_S) - 1)
            if self._closed.wait(_BACK_OFF_S[ends]):
                return
            ends += 1

    def _running(self) -> Whereabouts:
        with self._starting:
            whereabouts = find_process(self._settings) or self._start()
        if whereabouts.cluster != self._cluster:
            raise EngineCrashed(
                N_(
                    "LMDyno is still connected to {address}, which [cluster] in lanes.toml named before.",
                    address=whereabouts.cluster.address,
                ),
                hint=N_("End the dashboard and other LMDyno commands, then start the dashboard again."),
                code="cluster-other",
            )
        return whereabouts

    def _start(self) -> Whereabouts:
        log_file = private_folder(self._settings.logs_dir) / "cluster.log"
        hello = Hello(
            home=str(self._settings.home),
            cluster=self._cluster,
            end_engines_after=self._settings.end_engines_after,
        )
        descriptor = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab") as output:
            process = subprocess.Popen(
                self._command,
                cwd=PROJECT_ROOT,
                env={**os.environ, _RAY_TRIES: os.environ.get(_RAY_TRIES, "5")},
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        assert process.stdin is not None
        try:
            process.stdin.write(encode(hello) + b"\n")
            process.stdin.close()
        except BrokenPipeError:
            log.warning("cluster's process ended at once pid=%s", process.pid)
        # It may end before this process does; nobody else would take its exit status.
        threading.Thread(target=process.wait, name="cluster-process", daemon=True).start()
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            # Another process may have been quicker to start one.
            if whereabouts := find_process(self._settings):
                log.info("cluster's process runs pid=%s", whereabouts.process.pid)
                return whereabouts
            time.sleep(_POLL_S)
        raise _unavailable(N_("it isn't ready in time"))


def asked(whereabouts: Whereabouts, command: Command, *, timeout_s: float = _REPLY_S) -> Reply:
    """The reply; raises EngineError for its error, and OSError if the process ended."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout_s)
        connection.connect(whereabouts.address)
        connection.sendall(encode(command) + b"\n")
        received = b""
        while not received.endswith(b"\n"):
            try:
                part = connection.recv(65_536)
            except TimeoutError:
                raise EngineTimeout(
                    N_("LMDyno's connection to the Ray cluster doesn't respond."),
                    hint=N_("Check with `ray status` whether the cluster runs."),
                    code="cluster-process-hangs",
                ) from None
            if not part:
                raise ConnectionResetError
            received += part
    reply = decode(Reply, received)
    if reply.error is not None:
        raise error_of(reply.error)
    return reply


def _await_end(whereabouts: Whereabouts) -> None:
    """The kernel closes the sockets of a process that ends a little before it is gone."""
    deadline = time.monotonic() + 2.0
    while whereabouts.process.alive and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _unavailable(reason: str) -> EngineCrashed:
    return EngineCrashed(
        N_("Can't start LMDyno's connection to the Ray cluster: {reason}", reason=reason),
        hint=N_("See logs/cluster.log in LMDYNO_HOME."),
        code="cluster-process-died",
    )


_TIMEOUT_S = 3.0
_NS = 1e-9


class NodeWindows:
    """The samplers of all nodes. Thread-safe; each question takes milliseconds, 3 seconds at most."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._me = this_process()

    def engine(self, lane: str) -> tuple[str, NodeEngine] | None:
        """The node that runs the lane's engine now, and the engine; None if no node does."""
        snapshot = read_snapshot(self._settings)
        for node in snapshot.nodes if snapshot else ():
            engine = node.engine(lane)
            if engine is not None and engine.pid is not None and node.alive:
                return node.name, engine
        return None

    def mark(self, node: str) -> None:
        """Have the node take a sample now."""
        self._ask(Command(verb=Verb.MARK, sender=self._me, node=node))

    def window(self, node: str, start_ns: int, end_ns: int) -> WindowStats | None:
        """The node's figures between two perf_counter_ns timestamps of this machine.

        Its timestamps are the node's. None if it doesn't answer.
        """
        now_ns = time.perf_counter_ns()
        since_s, until_s = (now_ns - start_ns) * _NS, max(0.0, (now_ns - end_ns) * _NS)
        return self._ask(
            Command(verb=Verb.WINDOW, sender=self._me, node=node, since_s=since_s, until_s=until_s)
        )

    def _ask(self, command: Command) -> WindowStats | None:
        whereabouts = find_process(self._settings)
        if whereabouts is None:
            return None
        try:
            return asked(whereabouts, command, timeout_s=_TIMEOUT_S).window
        except (EngineError, OSError) as error:
            log.warning("node not measured node=%s reason=%s", command.node, error)
            return None
