"""guidellm and aiperf as load clients with several workers, for `benchmarks/client_workers.py`.

Both are run as modules of a Python that has them, each with its own option for the number of workers, against
the same server as LMDyno. Neither needs a network: guidellm sends one sentence, aiperf too, with a tokenizer
that lies on disk.
"""

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SLACK_S = 120.0
"""Beyond the measured seconds: both import for tens of seconds and write reports."""
PROMPT = "Go."


@dataclass(frozen=True, kw_only=True)
class Target:
    """What a peer is told to do."""

    url: str
    """Of the server, without `/v1`."""
    model: str
    workers: int
    concurrency: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Peers:
    """Where the peers are."""

    python: str
    path: str | None = None
    """A folder of packages for PYTHONPATH, of the peers alone."""
    tokenizer: Path | None = None
    """A folder with a tokenizer, without which aiperf asks the network."""

    def guidellm(self, target: Target) -> dict[str, Any]:
        """Its figures; chunks of answers that were complete when the time was up."""
        with tempfile.TemporaryDirectory() as folder:
            report, scenario = Path(folder, "report.json"), Path(folder, "scenario.json")
            scenario.write_text(json.dumps(_scenario(target, report)), "utf-8")
            words = ["-m", "guidellm", "run", "--config", str(scenario), "--disable-console"]
            problem = self._run(
                words, folder, target, {"GUIDELLM__MAX_WORKER_PROCESSES": str(target.workers)}
            )
            if not report.exists():
                return {"failed": problem or "it wrote no report"}
            (benchmark,) = json.loads(report.read_text("utf-8"))["benchmarks"]
        done = benchmark["requests"]["successful"]
        if not done:
            return {"failed": "no request was answered"}
        timings = [request["info"]["timings"] for request in done]
        seconds = max(timing["request_end"] for timing in timings)
        seconds -= min(timing["request_start"] for timing in timings)
        chunks = sum(timing["token_iterations"] for timing in timings)
        return {
            "chunks_per_s": chunks / seconds,
            "req_per_s": len(done) / seconds,
            "requests": {"ok": len(done), "failed": len(benchmark["requests"]["errored"])},
            "seconds": seconds,
        }

    def aiperf(self, target: Target) -> dict[str, Any]:
        """Its own figures, from the file that it writes."""
        if self.tokenizer is None:
            return {"failed": "aiperf needs --tokenizer FOLDER"}
        with tempfile.TemporaryDirectory() as folder:
            prompts = Path(folder, "prompts.jsonl")
            prompts.write_text(json.dumps({"text": PROMPT}) + "\n", "utf-8")
            words = ["-m", "aiperf", "profile", "--model", target.model, "--url", target.url]
            words += ["--endpoint-type", "chat", "--streaming", "--ui", "none"]
            words += ["--concurrency", str(target.concurrency), "--workers-max", str(target.workers)]
            words += ["--benchmark-duration", f"{target.seconds:g}", "--use-server-token-count"]
            words += ["--tokenizer", str(self.tokenizer.resolve()), "--input-file", str(prompts)]
            words += ["--custom-dataset-type", "single_turn", "--no-gpu-telemetry", "--no-server-metrics"]
            problem = self._run([*words, "--output-artifact-dir", folder], folder, target, {})
            report = Path(folder, "profile_export_aiperf.json")
            if not report.exists():
                return {"failed": problem or "it wrote no report"}
            figures = json.loads(report.read_text("utf-8"))
        requests = {"ok": int(figures["request_count"]["avg"])}
        if "error_request_count" in figures:
            requests["failed"] = int(figures["error_request_count"]["avg"])
        return {
            "chunks_per_s": figures["output_token_throughput"]["avg"],
            "req_per_s": figures["request_throughput"]["avg"],
            "requests": requests,
            "seconds": figures["benchmark_duration"]["avg"],
        }

    def versions(self) -> dict[str, str]:
        """Of both, as their Python knows them; empty where it knows neither."""
        code = "import importlib.metadata as m, json; print(json.dumps({n: m.version(n) for n in "
        code += "('guidellm', 'aiperf')}))"
        done = subprocess.run(
            [self.python, "-c", code], env=self._environment({}), capture_output=True, text=True
        )
        return dict(json.loads(done.stdout)) if done.returncode == 0 else {}

    def _run(self, words: list[str], folder: str, target: Target, more: dict[str, str]) -> str:
        """What it said last if it failed, else empty."""
        try:
            done = subprocess.run(
                [self.python, *words],
                cwd=folder,
                env=self._environment(more),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=target.seconds + SLACK_S,
            )
        except subprocess.TimeoutExpired:
            return "it took too long"
        if done.returncode == 0:
            return ""
        lines = (done.stdout + done.stderr).splitlines()
        errors = [line for line in lines if "ERROR" in line or "Error:" in line]
        return "\n".join(errors[:3] or lines[-8:])[:1200]

    def _environment(self, more: dict[str, str]) -> dict[str, str]:
        path = {"PYTHONPATH": self.path} if self.path else {}
        # Offline, aiperf would take a tokenizer's folder for a name on the hub.
        here = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")}
        return {**here, **path, **more}


def _scenario(target: Target, report: Path) -> dict[str, Any]:
    return {
        "metadata": {"name": "workers"},
        "spec": {
            "backend": {
                "kind": "openai_http",
                "target": target.url,
                "model": target.model,
                "max_tokens": 1_000_000,
            },
            "profile": {"kind": "concurrent", "streams": [target.concurrency]},
            "constraints": [{"kind": "max_duration", "seconds": target.seconds}],
            "data": [{"kind": "in_memory_item_list", "data": [PROMPT] * 200_000, "column_name": "prompt"}],
            "outputs": [{"kind": "json", "path": str(report)}],
        },
    }
