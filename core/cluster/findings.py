"""Findings about the Ray cluster: whether its nodes answer, which versions they have, who may use it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from core import __version__
from core.cluster.link import ClusterLink
from core.config import LaneRegistry
from core.doctor import examine
from core.doctor.fitness import Diagnosis, Finding, Status
from core.domain.specs import ClusterSpec
from core.engines.resolve import ClusterSnapshot, Node, node_trouble, read_snapshot, trouble
from core.errors import EngineError
from core.i18n import N_
from core.settings import Settings


def examine_all(
    settings: Settings,
    lanes: LaneRegistry,
    *,
    on_findings: Callable[[Sequence[Finding]], None] = lambda _findings: None,
) -> Diagnosis:
    """`core.doctor.examine`, with the nodes of the cluster: seconds more if no process follows it yet."""
    if lanes.cluster is None:
        return examine(settings, lanes, on_findings=on_findings)
    link = ClusterLink(settings, lanes.cluster)
    try:
        with suppress(EngineError):  # nodes.json, or the want of it, says the same
            link.await_reports()
        snapshot = read_snapshot(settings)
        return examine(
            settings,
            lanes,
            on_findings=on_findings,
            of_cluster=tuple(cluster_findings(lanes.cluster, snapshot)),
            node_problem=lambda node: node_trouble(read_snapshot(settings), node),
        )
    finally:
        link.let_go()


def cluster_findings(cluster: ClusterSpec | None, snapshot: ClusterSnapshot | None) -> Iterator[Finding]:
    """Nothing without a cluster in the lanes file; else what its last snapshot shows."""
    if cluster is None:
        return
    if (problem := trouble(snapshot)) or snapshot is None:
        if problem:
            yield Finding(Status.WARN, N_("Ray cluster"), problem.message, problem.hint)
        return
    lost = [node for node in snapshot.nodes if node.problem]
    detail = N_(
        "{address} · {n} of {total} nodes connected",
        address=cluster.address,
        n=len(snapshot.nodes) - len(lost),
        total=len(snapshot.nodes),
    )
    yield Finding(Status.OK, N_("Ray cluster"), detail)
    for node in lost:
        assert node.problem is not None
        yield Finding(Status.WARN, N_("Node {name}", name=node.name), node.problem.message, node.problem.hint)
    yield from _token(snapshot.nodes)
    yield from _versions("Ray", snapshot.nodes, lambda node: node.ray_version)
    yield from _versions("LMDyno", snapshot.nodes, lambda node: node.lmdyno_version, here=__version__)


def _token(nodes: Sequence[Node]) -> Iterator[Finding]:
    known = [node for node in nodes if node.token_auth is not None]
    is_open = [node.name for node in known if not node.token_auth]
    if is_open:
        yield Finding(
            Status.WARN,
            N_("Ray's access"),
            N_("Token authentication is off on {nodes}.", nodes=", ".join(is_open)),
            N_(
                "Whoever reaches Ray's ports can run programs on all nodes. Start Ray everywhere with "
                "`RAY_AUTH_MODE=token` and the same token (`ray get-auth-token --generate`)."
            ),
        )
    elif known:
        yield Finding(Status.OK, N_("Ray's access"), N_("Token authentication is on."))


def _versions(
    program: str, nodes: Sequence[Node], version_of: Callable[[Node], str | None], *, here: str | None = None
) -> Iterator[Finding]:
    by_version: dict[str, list[str]] = {}
    for node in nodes:
        if version := version_of(node):
            by_version.setdefault(version, []).append(node.name)
    if not by_version:
        return
    if len(by_version.keys() | ({here} if here else set())) == 1:
        yield Finding(Status.OK, N_("{program} on the nodes", program=program), next(iter(by_version)))
        return
    text = " · ".join(f"{version} ({', '.join(names)})" for version, names in sorted(by_version.items()))
    yield Finding(
        Status.WARN,
        N_("{program} on the nodes", program=program),
        N_("Versions differ: {versions}", versions=text),
        N_("Install the same version on all nodes, then start Ray there again."),
    )
