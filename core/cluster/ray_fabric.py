"""Ray as the fabric: one detached actor on each node, pinned there. The only module that imports Ray.

It is imported in the cluster's process, and on the nodes in processes that Ray starts.
"""

import asyncio
import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from core.cluster.agent import Agent
from core.cluster.protocol import AgentGone, FabricLost, FabricNode
from core.domain.specs import ClusterSpec

log = logging.getLogger(__name__)

NAMESPACE = "lmdyno"
_NODE_IP = "LMDYNO_RAY_NODE_IP"
"""Which Ray of this machine to join, where several run, as in tests."""
_AT_ONCE = 8
"""Requests that an agent answers at once: a slow start-up check must not delay its reports."""
_AGENT_ENVIRONMENT = {
    # Engines outlive the agent: the next one takes them over.
    "RAY_kill_child_processes_on_worker_exit": "0",
    # The agent asks Ray for no GPU, but its engines use them.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


class RayAgent:
    """The actor: an `Agent` that also knows Ray."""

    def __init__(self, home: str, node: str, address: str) -> None:
        self._agent = Agent(
            home,
            node,
            address,
            ray_version=ray.__version__,
            token_auth=os.environ.get("RAY_AUTH_MODE") == "token",
        )

    def answer(self, request: bytes) -> bytes:
        return self._agent.answer(request)


class RayFabric:
    """The connection to a Ray cluster, made by the first look at its nodes. Belongs to one event loop."""

    def __init__(self, cluster: ClusterSpec, home: str) -> None:
        """`home` is that of LMDyno here, the model for the one on the nodes."""
        self._cluster = cluster
        self._homes = Path(cluster.home) if cluster.home else Path(home) / "nodes"
        self._agents: dict[str, Any] = {}
        """Actor handles by the node's id."""
        self._making: dict[str, asyncio.Lock] = {}

    async def nodes(self) -> tuple[FabricNode, ...]:
        return await asyncio.to_thread(self._nodes)

    async def ask(self, node: FabricNode, request: bytes) -> bytes:
        async with self._making.setdefault(node.node_id, asyncio.Lock()):
            if node.node_id not in self._agents:
                self._agents[node.node_id] = await asyncio.to_thread(self._make_agent, node)
        try:
            answer: bytes = await self._agents[node.node_id].answer.remote(request)
        except RayError as exc:
            if isinstance(exc, ray.exceptions.ActorDiedError):
                self._agents.pop(node.node_id, None)
            raise AgentGone(_first_line(exc)) from exc
        return answer

    async def retire(self, node: FabricNode) -> None:
        agent = self._agents.pop(node.node_id, None)
        if agent is not None:
            await asyncio.to_thread(ray.kill, agent, no_restart=True)

    async def close(self) -> None:
        await asyncio.to_thread(ray.shutdown)

    def _nodes(self) -> tuple[FabricNode, ...]:
        try:
            if not ray.is_initialized():
                self._connect()
            return tuple(_node(facts) for facts in ray.nodes())
        except (RayError, OSError, ValueError, RuntimeError) as exc:
            raise FabricLost(_first_line(exc)) from exc

    def _connect(self) -> None:
        ray.init(
            address=self._cluster.address,
            namespace=NAMESPACE,
            log_to_driver=False,
            logging_level=logging.WARNING,
            configure_logging=False,
            _node_ip_address=os.environ.get(_NODE_IP),
        )

    def _make_agent(self, node: FabricNode) -> Any:  # noqa: ANN401 - Ray's handles have no type
        home = self._homes / node.name
        digest = hashlib.blake2b(str(home).encode(), digest_size=4).hexdigest()
        try:
            return (
                ray.remote(RayAgent)
                .options(
                    # By the node's id: hard affinity ties an actor to one life of a node.
                    name=f"agent-{digest}-{node.node_id}",
                    namespace=NAMESPACE,
                    lifetime="detached",
                    get_if_exists=True,
                    num_cpus=0,
                    max_restarts=-1,
                    max_concurrency=_AT_ONCE,
                    scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False),
                    runtime_env={"env_vars": _AGENT_ENVIRONMENT},
                )
                .remote(str(home), node.name, node.address)
            )
        except (RayError, ValueError) as exc:
            raise AgentGone(_first_line(exc)) from exc


def _node(facts: dict[str, Any]) -> FabricNode:
    resources = facts["Resources"]
    cores, memory = resources.get("CPU"), resources.get("memory")
    return FabricNode(
        name=facts["NodeName"],
        node_id=facts["NodeID"],
        address=facts["NodeManagerAddress"],
        alive=facts["Alive"],
        cores=None if cores is None else int(cores),
        memory_bytes=None if memory is None else int(memory),
    )


def _first_line(exc: BaseException) -> str:
    return next((line.strip() for line in str(exc).splitlines() if line.strip()), type(exc).__name__)
