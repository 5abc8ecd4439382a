"""How a load test reaches the processes that send its requests: on this machine, or on a node of the cluster.

Both speak the same messages (`core.bench.run.load_process`); on this machine through a pipe, to a node over a
connection that only whoever knows a fresh secret gets. It is not encrypted, like the requests themselves.
"""

import os
import secrets
import subprocess
import sys
from contextlib import suppress
from multiprocessing import AuthenticationError, Pipe
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Protocol

from core.bench.run.load_process import notice_silence
from core.cluster.link import ClusterLink
from core.cluster.protocol import Verb
from core.engines.nodes import Node
from core.errors import EngineError
from core.i18n import N_
from core.settings import PROJECT_ROOT

_PROGRAM = "from core.bench.run.load_process import main; main()"
"""Not `python -m`, under which its messages would be those of another module, `__main__`."""
_END_S = 5.0


class Way(Protocol):
    """One process and the connection to it."""

    connection: Connection

    @property
    def node(self) -> str | None:
        """Where it runs; None for this machine."""

    @property
    def exit_code(self) -> int | None:
        """Of a process here that has ended."""

    def end(self) -> None:
        """See to it that the process has ended, or will; it was told to."""


class Here:
    """A process on this machine, started at once."""

    node = None

    def __init__(self, home: Path) -> None:
        self.connection, theirs = Pipe()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(theirs.fileno())],
                cwd=PROJECT_ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "LMDYNO_HOME": str(home)},
            )

    @property
    def exit_code(self) -> int | None:
        return self.process.poll()

    def end(self) -> None:
        try:
            self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class OnNode:
    """A process on a node, started by the node's agent; it ends with the connection."""

    exit_code = None

    def __init__(self, link: ClusterLink, node: Node) -> None:
        """Takes seconds; raises EngineError if the node can't be used or its port not be reached."""
        self.node = node.name
        secret = secrets.token_hex(32)
        port = link.ask(Verb.LOAD, node=node.name, secret=secret).port
        try:
            self.connection = Client((node.address, port or 0), authkey=secret.encode())
            notice_silence(self.connection)
        except (OSError, EOFError, AuthenticationError) as exc:
            raise EngineError(
                N_(
                    "The load test's process on node {node} can't be reached at {address}: {reason}",
                    node=node.name,
                    address=f"{node.address}:{port}",
                    reason=str(exc) or type(exc).__name__,
                ),
                hint=N_("Allow connections between the nodes, as engines need them too."),
                code="load-process-unreachable",
            ) from exc

    def end(self) -> None:
        with suppress(OSError):
            self.connection.close()
