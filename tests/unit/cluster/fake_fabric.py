"""A cluster without Ray: nodes are functions in this process that answer requests, or don't."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from core import __version__
from core.cluster.protocol import (
    AgentGone,
    Answer,
    FabricLost,
    FabricNode,
    NodeReport,
    Request,
    Verb,
    Weighed,
)
from core.codec import decode, encode
from core.domain.specs import Dialect, Endpoint
from core.domain.turns import new_id, utc_now
from core.engines.registry import EngineState
from core.engines.resolve import NodeEngine
from core.telemetry.samples import GpuFacts

GIB = 2**30


class ScriptedAgent:
    """Answers as `core.cluster.agent.Agent` does; its engines are healthy at once and answer nobody."""

    def __init__(self, name, *, gpus=(), need_bytes=GIB):
        self.name = name
        self.gpus = gpus
        self.need_bytes = need_bytes
        self.engines = {}
        self.revision = 1
        self.asked = []
        self.refusal = None

    def __call__(self, data):
        request = decode(Request, data)
        self.asked.append(request)
        if self.refusal:
            return encode(Answer(error=self.refusal))
        if request.verb is Verb.WEIGH:
            free = max((gpu.free_bytes for gpu in self.gpus), default=0)
            fits = free >= self.need_bytes
            return encode(Answer(weighed=Weighed(fits=fits, free_bytes=free, need_bytes=self.need_bytes)))
        if request.verb is Verb.LOG:
            return encode(Answer(text=f"log of {request.lane.name}"))
        if request.verb is Verb.STOP:
            self.remove(request.lane.name)
        elif request.verb is Verb.RESTART or (
            request.verb is Verb.ENSURE and request.lane.name not in self.engines
        ):
            self.put(request.lane, persistent=request.persistent)
        return encode(Answer(report=self.report(request.revision)))

    def put(self, lane, **changes):
        """Have an engine of the lane, healthy unless the changes say otherwise."""
        engine = NodeEngine(
            lane=lane,
            state=EngineState.HEALTHY,
            since=utc_now(),
            start_id=new_id(),
            pid=1,
            port=1,
            endpoint=Endpoint(
                url="http://127.0.0.9:1/v1",
                model=lane.name,
                dialect=Dialect.GENERIC,
                api_key="k",
                device="cuda:0" if self.gpus else "cpu",
                node=self.name,
            ),
        )
        self.engines[lane.name] = replace(engine, **changes)
        self.revision += 1

    def remove(self, name):
        self.engines.pop(name, None)
        self.revision += 1

    def report(self, known):
        return NodeReport(
            at=utc_now(),
            lmdyno_version=__version__,
            revision=self.revision,
            engines=None if known == self.revision else tuple(self.engines.values()),
            gpus=self.gpus,
            ray_version="2.60.0",
            token_auth=True,
            home=f"/home/{self.name}",
        )


def gpu(index=0, *, free_bytes=80 * GIB):
    return GpuFacts(index=index, name="NVIDIA H200", total_bytes=141 * GIB, free_bytes=free_bytes)


@dataclass
class FakeFabric:
    """Nodes by name; each is a function from a request to its answer."""

    agents: dict[str, Callable[[bytes], bytes]] = field(default_factory=dict)
    silent: set[str] = field(default_factory=set)
    """Nodes that never answer."""
    gone: set[str] = field(default_factory=set)
    """Nodes that have ended."""
    ghosts: set[str] = field(default_factory=set)
    """Nodes whose life before the last start is still listed as if it went on."""
    lost: bool = False
    """The whole cluster can't be reached."""
    starts: dict[str, int] = field(default_factory=dict)
    """How often a node was started again."""
    retired: list[str] = field(default_factory=list)

    async def nodes(self):
        if self.lost:
            raise FabricLost("the head is gone")
        lives = [(name, self.starts.get(name, 0)) for name in self.agents]
        lives += [(name, self.starts.get(name, 0) - 1) for name in self.ghosts]
        return tuple(
            FabricNode(
                name=name,
                node_id=f"{name}-{life}",
                address="127.0.0.9",
                alive=name not in self.gone,
                cores=8,
                memory_bytes=64 * GIB,
            )
            for name, life in lives
        )

    async def ask(self, node, request):
        if node.name in self.silent:
            await asyncio.Event().wait()
        if node.name in self.gone or node.name not in self.agents:
            raise AgentGone(f"{node.name} is gone")
        return self.agents[node.name](request)

    async def retire(self, node):
        self.retired.append(node.name)

    async def close(self):
        """Nothing to leave."""
