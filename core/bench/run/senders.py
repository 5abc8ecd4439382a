"""Which processes send the requests of a pass: this one, several here, or some on nodes of the cluster."""

import asyncio
from collections.abc import Callable, Sequence

from core.bench.planning.plan import BenchPlan, SendFrom
from core.bench.run.load_processes import LoadProcesses
from core.bench.run.load_ways import Here, OnNode, Way
from core.chat_api.client import Timeouts
from core.chat_api.servers import place_of
from core.cluster.link import ClusterLink
from core.config.cluster import ADD_CLUSTER
from core.domain.bench import BenchRequest
from core.domain.specs import ClusterSpec, Endpoint
from core.domain.turns import Place
from core.engines.nodes import Node, node_trouble, read_snapshot, trouble
from core.engines.resolve import error_of
from core.errors import InputError
from core.i18n import N_
from core.settings import Settings


class Senders:
    """Load processes by where the plan wants them, started when they are first needed.

    Belongs to one event loop; close it afterwards.
    """

    def __init__(
        self,
        settings: Settings,
        plan: BenchPlan,
        timeouts: Timeouts,
        on_request: Callable[[BenchRequest], None],
        cluster: ClusterSpec | None = None,
    ) -> None:
        """Raises InputError if the plan's requests are to come from nodes and there is no cluster."""
        self._settings = settings
        self._plan = plan
        self._timeouts = timeouts
        self._on_request = on_request
        self._link: ClusterLink | None = None
        self._groups: dict[str | None, LoadProcesses] = {}
        """By the node that they are on, None for this machine or for several."""
        if plan.send_from is SendFrom.HERE:
            return
        if cluster is None:
            raise InputError(
                N_("Requests can't be sent from nodes: lanes.toml has no cluster."),
                hint=ADD_CLUSTER,
            )
        self._link = ClusterLink(settings, cluster)

    async def of(self, endpoints: Sequence[Endpoint]) -> LoadProcesses | None:
        """The processes for a pass on these; None for the calling one. Raises EngineError for a lost node."""
        if self._plan.send_from is SendFrom.HERE and (self._plan.workers or 1) == 1:
            return None
        node = endpoints[0].node if self._plan.send_from is SendFrom.ENGINE else None
        if node not in self._groups:
            self._groups[node] = self._started(await self._ways(node))
        return self._groups[node]

    async def place(self, endpoint: Endpoint) -> Place:
        """Where the endpoint's engine is, seen from the processes that send."""
        match self._plan.send_from:
            case SendFrom.ENGINE:
                return await place_of(endpoint, measured_on=endpoint.node)
            case SendFrom.NODES:
                return Place(node=endpoint.node, over_network=True)
            case _:
                return await place_of(endpoint)

    def close(self) -> None:
        for processes in self._groups.values():
            processes.close()
        if self._link is not None:
            self._link.let_go()

    async def _ways(self, node: str | None) -> Sequence[Way] | None:
        """None for processes here alone."""
        if self._link is None or (self._plan.send_from is SendFrom.ENGINE and node is None):
            return None
        await asyncio.to_thread(self._link.await_reports)
        nodes: list[Node | None] = [None, *self._usable()] if node is None else [self._node(node)]
        number = self._plan.workers or len(nodes)
        places = [nodes[place % len(nodes)] for place in range(number)]
        return await asyncio.gather(*(asyncio.to_thread(self._way, place) for place in places))

    def _way(self, node: Node | None) -> Way:
        assert self._link is not None
        return Here(self._settings.home) if node is None else OnNode(self._link, node)

    def _usable(self) -> list[Node]:
        """Raises EngineError if no node of the cluster can be used."""
        snapshot = read_snapshot(self._settings)
        if (problem := trouble(snapshot)) is not None:
            raise error_of(problem)
        return [node for node in snapshot.nodes if node.alive] if snapshot else []

    def _node(self, name: str) -> Node:
        snapshot = read_snapshot(self._settings)
        if (problem := node_trouble(snapshot, name)) is not None:
            raise error_of(problem)
        node = snapshot.node(name) if snapshot else None
        assert node is not None  # node_trouble would have said so
        return node

    def _started(self, ways: Sequence[Way] | None) -> LoadProcesses:
        # Every request needs a number of its own; on engines' nodes there is at most one group for each lane.
        groups = len(self._plan.lanes) if self._plan.send_from is SendFrom.ENGINE else 1
        return LoadProcesses(
            self._settings,
            self._plan,
            self._timeouts,
            self._on_request,
            ways,
            group=len(self._groups),
            groups=groups,
        )
