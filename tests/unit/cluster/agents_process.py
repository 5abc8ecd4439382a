"""The cluster's process with agents in it instead of Ray: `agents_process.py HOME`, a `Hello` on its input.

Two nodes, alpha and beta, run `tests/engines/fake_engine.py`. A file `lost` in the home makes the cluster
unreachable.
"""

import asyncio
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT))

from core.cluster import process  # noqa: E402
from core.cluster.agent import Agent  # noqa: E402
from core.cluster.protocol import FabricLost, FabricNode  # noqa: E402
from tests.unit.engines.engine_stand_ins import rows  # noqa: E402

ADDRESSES = {"alpha": "127.0.0.6", "beta": "127.0.0.7"}


class AgentsFabric:
    def __init__(self, hello):
        self.home = Path(hello.home)
        self.agents = {
            name: Agent(str(self.home / "nodes" / name), name, address, rows=rows(), grace_s=1.0)
            for name, address in ADDRESSES.items()
        }

    async def nodes(self):
        if (self.home / "lost").exists():
            raise FabricLost("no answer from the head")
        return tuple(
            FabricNode(name=name, node_id=name, address=address, alive=True)
            for name, address in ADDRESSES.items()
        )

    async def ask(self, node, request):
        return await asyncio.to_thread(self.agents[node.name].answer, request)

    async def retire(self, node):
        await asyncio.to_thread(self.agents[node.name].close)

    async def close(self):
        """Agents go with the process."""


if __name__ == "__main__":
    process.ASK_INTERVAL_S = process._NODES_INTERVAL_S = process._WRITE_INTERVAL_S = 0.2
    sys.exit(process.main(AgentsFabric))
