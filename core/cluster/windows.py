"""What the nodes' machines did between two moments: their samplers' figures, for those who measure here.

Asked over the cluster's process. A node that doesn't answer has no figures, which costs nobody a request.
"""

import logging
import time

from core.cluster.link import asked, find_process
from core.cluster.protocol import Command, Verb
from core.engines.nodes import NodeEngine, read_snapshot
from core.errors import EngineError
from core.settings import Settings
from core.telemetry.processes import this_process
from core.telemetry.window import WindowStats

log = logging.getLogger(__name__)

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
