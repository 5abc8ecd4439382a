from core.cluster.findings import cluster_findings
from core.doctor.findings import Status
from core.domain.specs import ClusterSpec
from tests.unit.engines.node_samples import a_lost_node, a_node, a_snapshot

CLUSTER = ClusterSpec(address="head:6379")


def found(*nodes, **changes):
    return {str(each.subject): each for each in cluster_findings(CLUSTER, a_snapshot(*nodes, **changes))}


def test_without_a_cluster_there_is_nothing_to_find():
    assert list(cluster_findings(None, None)) == []


def test_a_cluster_as_it_should_be():
    findings = found(a_node("gpu1"), a_node("gpu2"))
    assert {each.status for each in findings.values()} == {Status.OK}
    assert "2 of 2 nodes connected" in findings["Ray cluster"].detail


def test_no_connection_is_the_one_finding():
    (finding,) = cluster_findings(CLUSTER, None)
    assert (finding.status, finding.subject) == (Status.WARN, "Ray cluster")
    assert "isn't connected" in finding.detail


def test_a_node_that_does_not_answer_is_named():
    findings = found(a_node("gpu1"), a_lost_node("gpu2"))
    assert "1 of 2 nodes connected" in findings["Ray cluster"].detail
    assert findings["Node gpu2"].status is Status.WARN
    assert "stopped answering" in findings["Node gpu2"].detail


def test_ray_without_a_token_is_a_warning():
    finding = found(a_node("gpu1"), a_node("gpu2", token_auth=False))["Ray's access"]
    assert finding.status is Status.WARN
    assert finding.detail == "Token authentication is off on gpu2."
    assert "RAY_AUTH_MODE=token" in finding.remedy


def test_versions_that_differ_are_a_warning():
    findings = found(a_node("gpu1"), a_node("gpu2", ray_version="2.50.0", lmdyno_version="0.0.1"))
    assert findings["Ray on the nodes"].detail == "Versions differ: 2.50.0 (gpu2) · 2.60.0 (gpu1)"
    assert findings["LMDyno on the nodes"].status is Status.WARN


def test_one_version_everywhere_but_another_here_is_a_warning_too():
    assert found(a_node(lmdyno_version="0.0.1"))["LMDyno on the nodes"].status is Status.WARN
