import csv
import io
import json
from dataclasses import replace

import pytest
from pyarrow import BufferReader, parquet

from core.bench.bandwidth import bandwidth_of, roofline
from core.bench.plan import Limits
from core.bench.results.comparison import compare
from core.bench.results.result import results
from core.domain.runs import BenchRun, LoadLevel
from core.errors import InputError
from core.reports.run_json import BENCH_SCHEMA_VERSION, bench_from_json, bench_to_json
from core.reports.tables import requests_csv, requests_parquet
from tests.unit.bench.bench_samples import A, B, a_failure, a_pass, a_plan, a_record, a_request, a_timing


def a_full_record(ttft_s=0.1, gap_s=0.01, **plan):
    passes = [a_pass(0, ("a",)), a_pass(1, ("b",))]
    requests = [
        replace(a_request(0), warmup=True),
        a_request(1, timing=a_timing(ttft_s=ttft_s, gap_s=gap_s)),
        a_request(2, "b", pass_number=1),
        replace(a_failure(3, "engine-busy", "b"), pass_number=1),
    ]
    return a_record(a_plan(A, B, limits=Limits(ttft_s=0.2), **plan), passes, requests)


def document(record, *, raw=False):
    return json.loads(bench_to_json(results(record), record, raw=raw))


def test_the_document_has_the_documented_shape():
    found = document(a_full_record())
    assert found["schema_version"] == BENCH_SCHEMA_VERSION
    assert found["environment"]["machine"]["host"] == "lab"
    assert found["plan"]["workload"]["prompt_tokens"] == 32
    assert found["raw"] is None
    a, b = found["points"]
    assert (a["lane"], a["concurrency"], a["rate"]) == ("a", 1, None)
    assert b["requests"] == {"ok": 1, "failed": 1, "cancelled": 0, "by_code": {"engine-busy": 1}}
    for name in ("ttft_s", "tpot_s", "itl_s", "icl_s", "e2e_s"):
        assert {"mean", "p50", "p90", "p95", "p99", "n"} <= set(a[name])
    assert a["ttft_s"]["mean"] == pytest.approx(0.1)
    for name in ("duration_s", "output_tokens", "system_tok_per_s", "req_per_s", "goodput_req_per_s"):
        assert a[name] is not None


def test_an_exported_run_comes_back_with_all_its_facts():
    record = a_full_record()
    back = bench_from_json(bench_to_json(results(record), record, raw=True))
    assert back.run.imported
    assert replace(back.run, imported=False, plan="") == replace(record.run, plan="")
    assert (back.passes, back.requests) == (record.passes, record.requests)
    assert results(back).points == results(record).points
    assert results(back).plan == results(record).plan


def test_a_file_without_timestamps_is_refused():
    record = a_full_record()
    with pytest.raises(InputError) as refused:
        bench_from_json(bench_to_json(results(record), record, raw=False))
    assert refused.value.code == "no-raw-facts"


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [
        (b"{}", "bad-record", "The file is not an exported run: schema_version: "),
        (b"nothing", "bad-record", "The file is not an exported run: the document: "),
        (b'{"schema_version": 99, "future": true}', "newer-schema", "A newer version of LMDyno exported"),
        (b'{"schema_version": 1}', "bad-record", "The file is not an exported run: id: "),
    ],
)
def test_a_file_that_is_no_run_is_refused(data, code, message):
    with pytest.raises(InputError) as refused:
        bench_from_json(data)
    assert refused.value.code == code
    assert refused.value.message.startswith(message)


def test_the_tables_have_a_row_a_request():
    record = a_full_record()
    rows = list(csv.DictReader(io.StringIO(requests_csv(record))))
    assert [row["request"] for row in rows] == ["0", "1", "2", "3"]
    assert float(rows[1]["ttft_s"]) == pytest.approx(0.1)
    assert (rows[3]["error"], rows[3]["ttft_s"]) == ("engine-busy", "")
    assert (rows[0]["node"], rows[0]["over_network"]) == ("", "")
    table = parquet.read_table(BufferReader(requests_parquet(record))).to_pylist()
    assert [row["warmup"] for row in table] == [True, False, False, False]
    assert table[1]["tpot_s"] == pytest.approx(0.01)


def test_runs_are_compared_point_by_point_against_a_baseline():
    before, after = (results(a_full_record(ttft_s=t, gap_s=g)) for t, g in ((0.1, 0.01), (0.2, 0.005)))
    comparison = compare([before, after])
    a, b = comparison.points
    assert a.change_ratios("ttft_s.p50", 0) == (0.0, pytest.approx(1.0))
    assert a.change_ratios("tpot_s.mean", 0)[1] == pytest.approx(-0.5)
    assert a.change_ratios("tpot_s.mean", 1)[0] == pytest.approx(1.0)
    assert b.change_ratios("ttft_s.p50", 0)[1] == pytest.approx(0.0)
    assert comparison.warnings == ()
    assert comparison.settings == ()


def test_lanes_of_other_names_are_compared_only_on_request():
    one = results(a_record(a_plan(A), [a_pass()], [a_request(0)]))
    other = results(a_record(a_plan(B), [a_pass(0, ("b",))], [a_request(0, "b")]))
    assert [point.lanes for point in compare([one, other]).points] == [("a", ""), ("", "b")]
    (point,) = compare([one, other], pairs={"b": "a"}).points
    assert point.lanes == ("a", "b")
    # Neither a lane that isn't there nor one that has a namesake can be paired.
    assert len(compare([one, other], pairs={"b": "nobody", "x": "a"}).points) == 2
    assert [p.lanes for p in compare([one, one], pairs={"a": "a"}).points] == [("a", "a")]


def test_a_load_that_only_one_run_has_is_unknown_in_the_other():
    one = results(a_full_record())
    four = a_record(a_plan(A, B), [a_pass(level=LoadLevel(concurrency=4))], [a_request(0)])
    points = compare([one, results(four)]).points
    assert [tuple(p is None for p in each.points) for each in points] == [
        (False, True),
        (False, True),
        (True, False),
    ]


def test_different_workloads_and_machines_are_warned_of():
    one = a_full_record()
    other = a_full_record(workload=replace(a_plan().workload, output_tokens=99))
    other = replace(other, run=replace(other.run, machine=replace(other.run.machine, host="desk")))
    comparison = compare([results(one), results(other)])
    assert any("workloads" in warning for warning in comparison.warnings)
    assert any("machines" in warning for warning in comparison.warnings)
    assert [d.path for d in comparison.settings] == ["plan.workload.output_tokens"]
    assert comparison.settings[0].values == ("11", "99")
    assert [d.path for d in comparison.environment] == ["machine.host"]


def test_prompts_that_the_engines_count_differently_are_warned_of():
    one = results(a_record(a_plan(A), [a_pass()], [a_request(0, prompt_tokens=40)]))
    other = results(a_record(a_plan(A), [a_pass()], [a_request(0, prompt_tokens=50)]))
    assert any("40 to 50" in warning for warning in compare([one, other]).warnings)


@pytest.mark.parametrize("count", [1, 7])
def test_only_two_to_six_runs_are_compared(count):
    with pytest.raises(InputError):
        compare([results(a_full_record())] * count)


def test_the_roofline_is_bandwidth_over_weights():
    found = roofline(3_780_000_000, ["NVIDIA H100 80GB HBM3"])
    assert found.decode_tok_per_s == pytest.approx(886, abs=1)
    assert found.share(372) == pytest.approx(0.42, abs=0.005)
    assert roofline(1000, ["NVIDIA H100 80GB HBM3"] * 2).bandwidth_bytes_per_s == 6700e9


def test_no_roofline_without_its_figures():
    assert roofline(None, ["NVIDIA H100 80GB HBM3"]) is None
    assert roofline(1000, []) is None
    assert roofline(1000, ["Voodoo 2"]) is None
    assert roofline(1000, ["Voodoo 2"], bandwidth_bytes_per_s=2000.0).decode_tok_per_s == 2


@pytest.mark.parametrize(
    ("name", "gb_per_s"),
    [
        ("NVIDIA H100 PCIe", 2000),
        ("NVIDIA H100 80GB HBM3", 3350),
        ("NVIDIA H200", 4800),
        ("NVIDIA A100-SXM4-80GB", 2039),
        ("NVIDIA A100 80GB PCIe", 1935),
        ("NVIDIA A100-SXM4-40GB", 1555),
        ("NVIDIA L4", 300),
        ("NVIDIA L40S", 864),
        ("NVIDIA GeForce RTX 4090", 1008),
        ("Tesla T4", 320),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
    ],
)
def test_bandwidths_go_by_nvmls_names(name, gb_per_s):
    assert bandwidth_of(name) == (gb_per_s and gb_per_s * 10**9)


def test_a_record_of_another_version_still_reads(tmp_path):
    record = a_full_record()
    assert isinstance(record.run, BenchRun)
    found = document(record, raw=True) | {"something_new": 1}
    assert bench_from_json(json.dumps(found).encode()).requests == record.requests
