"""The stored load tests are whole, and the reports are made from them."""

import json
import lzma

import pytest

from benchmarks import bench_report
from core.bench.results.result import results

RUNS = bench_report.MEASUREMENTS / "runs"
STEPS = json.loads(lzma.decompress((bench_report.MEASUREMENTS / "bench.json.xz").read_bytes()))["steps"]


@pytest.mark.parametrize(
    ("run", "step"), [("1.8b", "run 1.8b"), ("7b", "run 7b"), ("together", "run together")]
)
def test_a_stored_run_has_the_published_figures(run, step):
    points = results(bench_report.read_run(RUNS / f"{run}.json.xz")).points
    published = STEPS[step]["result"]["points"]
    assert [point.lane for point in points] == [known["lane"] for known in published]
    for point, known in zip(points, published, strict=True):
        assert point.system_tok_per_s == pytest.approx(known["system_tok_per_s"])
        assert point.ttft_s.p50 == pytest.approx(known["ttft_s"]["p50"])


@pytest.mark.parametrize("name", bench_report.IMAGES)
def test_every_image_has_its_figure_and_is_shown(name):
    assert bench_report.image_figure(name).data
    image = bench_report.MEASUREMENTS / "charts" / f"{name}.svg"
    assert image.read_text("utf-8").startswith("<svg")
    assert f"(charts/{name}.svg)" in (bench_report.MEASUREMENTS / "bench.md").read_text("utf-8")


def test_the_whole_report_is_rebuilt(tmp_path):
    out = tmp_path / "report.html"
    bench_report.write_html(RUNS / "hf-7b.json.xz", out)
    text = out.read_text("utf-8")
    assert "hf-7b" in text
    assert "Plotly.newPlot" in text
