"""A small cluster as nodes.json has it: one node that answers and one that has stopped."""

from datetime import timedelta

from core import __version__
from core.domain.turns import ErrorInfo, utc_now
from core.engines.resolve import ClusterSnapshot, Node, Placement
from core.telemetry.processes import this_process
from core.telemetry.samples import GpuFacts

GIB = 2**30
SILENT = ErrorInfo("node-silent", "Node gpu2 stopped answering.", "Check the machine.")


def a_node(name="gpu1", **changes):
    facts = {
        "name": name,
        "node_id": f"id of {name}",
        "address": "192.0.2.1",
        "reported_at": utc_now(),
        "gpus": (GpuFacts(index=0, name="NVIDIA H200", total_bytes=141 * GIB, free_bytes=100 * GIB),),
        "ray_version": "2.60.0",
        "lmdyno_version": __version__,
        "token_auth": True,
    }
    return Node(**{**facts, **changes})


def a_lost_node(name="gpu2"):
    return a_node(name, problem=SILENT, reported_at=utc_now() - timedelta(seconds=75))


def a_snapshot(*nodes, **changes):
    facts = {
        "process": this_process(),
        "written_at": utc_now(),
        "address": "head:6379",
        "connected": True,
        "nodes": nodes,
        "placements": (Placement(lane="hf", node="gpu2"),),
    }
    return ClusterSnapshot(**{**facts, **changes})
