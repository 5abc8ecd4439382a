"""What carries requests to the nodes: Ray (`core.cluster.ray_fabric`), or a stand-in in tests."""

from dataclasses import dataclass
from typing import Protocol


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
