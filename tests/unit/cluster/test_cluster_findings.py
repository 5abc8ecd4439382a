import pytest

from core.cluster import findings
from core.cluster.findings import cluster_findings, examine_all
from core.codec import encode
from core.config import LaneRegistry
from core.doctor.fitness import Status
from core.domain.specs import ClusterSpec
from core.engines.resolve import nodes_file
from core.errors import EngineCrashed
from core.files import write_atomically
from tests.unit.engines.engine_stand_ins import settings_in
from tests.unit.engines.node_samples import a_lost_node, a_node, a_snapshot

CLUSTER = ClusterSpec(address="head:6379")


def found(*nodes, **changes):
    return {str(each.subject): each for each in cluster_findings(CLUSTER, a_snapshot(*nodes, **changes))}


def test_without_a_cluster_there_is_nothing_to_find():
    assert list(cluster_findings(None, None)) == []


def test_a_cluster_as_it_should_be():
    by_subject = found(a_node("gpu1"), a_node("gpu2"))
    assert {each.status for each in by_subject.values()} == {Status.OK}
    assert "2 of 2 nodes connected" in by_subject["Ray cluster"].detail


def test_no_connection_is_the_one_finding():
    (finding,) = cluster_findings(CLUSTER, None)
    assert (finding.status, finding.subject) == (Status.WARN, "Ray cluster")
    assert "isn't connected" in finding.detail


def test_a_node_that_does_not_answer_is_named():
    by_subject = found(a_node("gpu1"), a_lost_node("gpu2"))
    assert "1 of 2 nodes connected" in by_subject["Ray cluster"].detail
    assert by_subject["Node gpu2"].status is Status.WARN
    assert "stopped answering" in by_subject["Node gpu2"].detail


def test_ray_without_a_token_is_a_warning():
    finding = found(a_node("gpu1"), a_node("gpu2", token_auth=False))["Ray's access"]
    assert finding.status is Status.WARN
    assert finding.detail == "Token authentication is off on gpu2."
    assert "RAY_AUTH_MODE=token" in finding.remedy


def test_versions_that_differ_are_a_warning():
    by_subject = found(a_node("gpu1"), a_node("gpu2", ray_version="2.50.0", lmdyno_version="0.0.1"))
    assert by_subject["Ray on the nodes"].detail == "Versions differ: 2.50.0 (gpu2) · 2.60.0 (gpu1)"
    assert by_subject["LMDyno on the nodes"].status is Status.WARN


def test_one_version_everywhere_but_another_here_is_a_warning_too():
    assert found(a_node(lmdyno_version="0.0.1"))["LMDyno on the nodes"].status is Status.WARN


calls = []


class Link:
    """The way to a cluster's process that may not start; it must not end anybody's engines."""

    def __init__(self, settings, cluster):
        calls.append("made")

    def await_reports(self):
        calls.append("waited")
        if "refuse" in calls:
            raise EngineCrashed("It exits at once.", code="cluster-process-died")

    def let_go(self):
        calls.append("let go")


@pytest.fixture
def examined(tmp_path, monkeypatch):
    """Examines a home with a cluster; what `examine` was given of it."""
    calls.clear()
    settings = settings_in(tmp_path)
    monkeypatch.setattr(findings, "ClusterLink", Link)
    monkeypatch.setattr(findings, "examine", lambda *_args, **given: given)

    def run(snapshot=None, cluster=CLUSTER):
        if snapshot:
            write_atomically(nodes_file(settings), encode(snapshot))
        return examine_all(settings, LaneRegistry(models=(), lanes=(), source=None, cluster=cluster))

    return run


def test_the_doctor_waits_for_the_nodes_and_leaves_their_engines_alone(examined):
    given = examined(a_snapshot(a_node("gpu1"), a_lost_node("gpu2")))
    assert calls == ["made", "waited", "let go"]
    assert given["node_problem"]("gpu1") is None
    assert given["node_problem"]("gpu2").code == "node-silent"
    assert given["of_cluster"][0].status is Status.OK


def test_a_cluster_process_that_does_not_start_is_a_finding(examined):
    calls.append("refuse")
    (finding,) = examined()["of_cluster"]
    assert "isn't connected" in finding.detail
    assert calls[-1] == "let go"


def test_without_a_cluster_nobody_is_asked(examined):
    assert set(examined(cluster=None)) == {"on_findings"}
    assert calls == []
