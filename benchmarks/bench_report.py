"""Reports of the stored load tests: an HTML page with all charts, and the images in docs/measurements.

    python -m benchmarks.bench_report html docs/measurements/runs/1.8b.json.xz --out bench-1.8b.html
    python -m benchmarks.bench_report images

`docs/measurements/runs` holds runs as `lmdyno runs export` writes them, with every timestamp, compressed.
`xz --decompress --keep FILE` makes a file for `lmdyno runs import`. Images need Chromium.
"""

import argparse
import json
import lzma
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from core.bench.results.result import BenchResult, results
from core.charts.colors import lane_color
from core.charts.comparison import interference_chart, speed_up_chart
from core.charts.load import Colors, pareto_chart, throughput_chart
from core.domain.runs import BenchRecord
from core.reports.html import report_html
from core.reports.run_json import bench_from_json
from core.settings import PROJECT_ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Page

MEASUREMENTS = PROJECT_ROOT / "docs" / "measurements"
WIDTH_PX = 640
HEIGHT_PX = 400
CHROMIUM_ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]

IMAGES: dict[str, tuple[str, Callable[[BenchResult, Colors], go.Figure]]] = {
    "throughput-1.8b": ("1.8b", lambda result, colors: throughput_chart(result, "system", colors)),
    "throughput-7b": ("7b", lambda result, colors: throughput_chart(result, "system", colors)),
    "pareto-1.8b": ("1.8b", pareto_chart),
    "pareto-7b": ("7b", pareto_chart),
    "speed-up-1.8b": ("1.8b", speed_up_chart),
    "interference-1.8b": ("together", interference_chart),
}
"""Each image with the run that it is drawn from."""


def read_run(file: Path) -> BenchRecord:
    """A run as it was exported, compressed or not."""
    data = file.read_bytes()
    return bench_from_json(lzma.decompress(data) if file.suffix == ".xz" else data)


def image_figure(name: str) -> go.Figure:
    """The figure of one of `IMAGES`, before it is drawn."""
    run, build = IMAGES[name]
    result = results(read_run(MEASUREMENTS / "runs" / f"{run}.json.xz"))
    lanes = [lane.name for lane in result.plan.lanes]
    figure = build(result, {lane: lane_color(lane, lanes) for lane in lanes})
    figure.update_layout(template="plotly_white", paper_bgcolor="#ffffff", margin={"l": 8, "r": 32, "b": 8})
    return figure


def write_html(file: Path, out: Path) -> None:
    """Write the run's report with interactive charts, which needs no network."""
    record = read_run(file)
    out.write_text(report_html(results(record), record), "utf-8")


def write_images(folder: Path) -> None:
    """Draw every image as SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    with plotly_page() as page:
        for name in IMAGES:
            (folder / f"{name}.svg").write_text(svg(page, image_figure(name)), "utf-8")
            print(folder / f"{name}.svg")


@contextmanager
def plotly_page() -> Iterator["Page"]:
    """A page in Chromium with plotly's own script and no network."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("chromium-browser"), args=CHROMIUM_ARGS
        )
        page = browser.new_context(offline=True).new_page()
        page.set_content("<!doctype html><meta charset='utf-8'>")
        page.add_script_tag(content=get_plotlyjs())
        yield page
        browser.close()


def svg(page: "Page", figure: go.Figure) -> str:
    """The figure as SVG text."""
    return page.evaluate(
        """async ([figure, width, height]) => {
          const url = await Plotly.toImage(figure, {format: "svg", width, height});
          return decodeURIComponent(url.slice(url.indexOf(",") + 1));
        }""",
        [json.loads(figure.to_json()), WIDTH_PX, HEIGHT_PX],
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    html = commands.add_parser("html", help="write a run's report with interactive charts")
    html.add_argument("run", type=Path)
    html.add_argument("--out", type=Path, required=True)
    images = commands.add_parser("images", help="draw the images of docs/measurements")
    images.add_argument("--out", type=Path, default=MEASUREMENTS / "charts")
    options = parser.parse_args()
    if options.command == "html":
        write_html(options.run, options.out)
    else:
        write_images(options.out)


if __name__ == "__main__":
    main()
