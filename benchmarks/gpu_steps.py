"""What the long GPU programs share: steps within a time limit, each written down as soon as it is done."""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from core.codec import encode  # noqa: E402  the folder above is on the path only now
from core.domain.specs import LaneSpec  # noqa: E402
from core.engines.manager import EngineManager  # noqa: E402
from core.errors import LMDynoError  # noqa: E402
from core.telemetry.nvml import describe_machine  # noqa: E402


class Steps:
    """Runs steps while there is time, and keeps a JSON file up to date; a failing step costs only itself.

    Thread-safe.
    """

    def __init__(self, out: Path, limit_s: float, *, keep: bool = False) -> None:
        """`keep`: steps that an earlier call has left in the file stay there until they are made again."""
        self._out = out
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._limit_s = limit_s
        self._report: dict[str, Any] = {
            "command": " ".join(["python", *sys.argv]),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": _versions(),
            "machine": json.loads(encode(describe_machine())),
            "steps": json.loads(out.read_text("utf-8"))["steps"] if keep and out.exists() else {},
        }

    @property
    def left_s(self) -> float:
        return self._limit_s - (time.monotonic() - self._began)

    def run(self, name: str, work: Callable[[], Any], *, needs_s: float = 0.0) -> bool:
        """Whether the step was made and did not fail; it is left out if less than `needs_s` is left."""
        if self.left_s < needs_s:
            self.put(name, {"left_out": f"{self.left_s:.0f} s were left, it needs about {needs_s:.0f} s"})
            return False
        began = time.monotonic()
        done = True
        with self._lock:
            self._report["steps"].pop(name, None)
        try:
            self.put(name, {"result": work()})
        except Exception as error:  # noqa: BLE001  one broken step must not cost the others
            done = False
            known = {"error": error.message, "hint": error.hint} if isinstance(error, LMDynoError) else {}
            self.put(name, {**known, "failed": traceback.format_exc()})
        self.put(name, {"wall_s": round(time.monotonic() - began, 1)})
        how = "done" if done else "FAILED"
        tell(f"{name}: {how}, {time.monotonic() - began:.1f} s; {self.left_s:.0f} s left")
        return done

    def put(self, name: str, facts: dict[str, Any]) -> None:
        """Add facts to a step's entry, and write the file."""
        # What is no JSON fails here, before it could spoil the report.
        plain = json.loads(encode(facts))
        with self._lock:
            self._report["steps"].setdefault(name, {}).update(plain)
            self._report["total_s"] = round(time.monotonic() - self._began, 1)
            self._out.parent.mkdir(parents=True, exist_ok=True)
            temporary = self._out.with_suffix(".part")
            temporary.write_text(json.dumps(self._report, indent=1), "utf-8")
            temporary.replace(self._out)

    def run_planned(
        self, planned: Sequence[tuple[str, Callable[[], Any], float]], only: Sequence[str]
    ) -> None:
        """Run steps of (name, work, seconds that it needs) in their order; with `only`, those alone."""
        for name, work, needs_s in planned:
            if not only or name in only:
                self.run(name, work, needs_s=needs_s)

    def load_test(
        self,
        file: Path,
        words: Sequence[str],
        figures: Callable[[bytes], dict[str, Any]],
        *,
        timeout_s: float,
    ) -> dict[str, Any]:
        """`python -m core bench` with these words, and the figures of the run that it writes to `file`."""
        file.unlink(missing_ok=True)
        began = time.monotonic()
        done = self.core("bench", *words, "--json", str(file), "--raw", timeout_s=timeout_s)
        facts = {
            "command": " ".join(["python", "-m", "core", "bench", *words]),
            "exit_code": done.returncode,
            "wall_s": round(time.monotonic() - began, 1),
            "stderr": done.stderr[-1500:],
        }
        if not file.exists():
            return {**facts, "stdout": done.stdout[-1500:]}
        return facts | figures(file.read_bytes())

    def core(self, *words: str, timeout_s: float) -> "subprocess.CompletedProcess[str]":
        """Run `python -m core …`; after the timeout it is asked to stop with what it has."""
        process = subprocess.Popen(
            [sys.executable, "-m", "core", *words],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        limit_s = max(5.0, min(timeout_s, self.left_s))
        for patience_s, how in ((limit_s, signal.SIGINT), (15.0, signal.SIGKILL), (15.0, signal.SIGKILL)):
            try:
                output, errors = process.communicate(timeout=patience_s)
                return subprocess.CompletedProcess(process.args, process.returncode, output, errors)
            except subprocess.TimeoutExpired:
                tell(f"{' '.join(words[:3])} … takes longer than {patience_s:.0f} s: {how.name}")
                process.send_signal(how)
        raise RuntimeError(f"{words[0]} can't be ended")


def arguments(about: str, *, out: str, work: str, limit_s: float) -> argparse.ArgumentParser:
    """What each of the programs is told; `about` is its docstring, `out` says what that path is."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--out", type=_path, required=True, help=out)
    parser.add_argument("--tokenizer", type=_path, required=True, help="a model folder with a tokenizer")
    parser.add_argument("--work", type=_path, default=Path(work))
    parser.add_argument(
        "--limit-s", type=float, default=limit_s, help="no step is begun that would go beyond"
    )
    parser.add_argument("--tiny", action="store_true", help="only shows that the program runs, without a GPU")
    return parser


def tell(text: str) -> None:
    print(f"[{datetime.now(UTC):%H:%M:%S}] {text}", flush=True)


def start_engines(manager: EngineManager, lanes: Sequence[LaneSpec], timeout_s: float) -> dict[str, Any]:
    """Start the lanes' engines, which load one after another on one GPU; what each came to, by lane."""
    began = time.monotonic()
    for lane in lanes:
        manager.ensure(lane.name)
    found: dict[str, Any] = {}
    for lane in lanes:
        try:
            manager.wait_until_healthy(lane.name, max(1.0, timeout_s - (time.monotonic() - began)))
            found[lane.name] = {"healthy_after_s": round(time.monotonic() - began, 1)}
        except LMDynoError as error:
            tell(f"{lane.name} did not start: {error.message}")
            log = manager.log_tail(lane.name, 25)
            found[lane.name] = {"error": error.message, "code": error.code, "log": log.splitlines()}
    return found


def healthy(starts: dict[str, Any]) -> list[str]:
    return [name for name, facts in starts.items() if "error" not in facts]


def write_weights(
    name: str, tokenizer: Path, out: Path, *, awq: bool = False
) -> "subprocess.Popen[bytes] | None":
    """Begin to write random weights in a process of its own; None if the folder has them already."""
    if (out / "config.json").exists():
        return None
    command = [sys.executable, "tools/random_checkpoint.py", name, "--tokenizer", str(tokenizer)]
    command += ["--out", str(out), *(["--awq"] if awq else [])]
    return subprocess.Popen(command, cwd=ROOT, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})


def wait_for(writers: "Sequence[subprocess.Popen[bytes] | None]", timeout_s: float = 120.0) -> None:
    """Raises if one of the writers failed or takes too long."""
    for writer in writers:
        if writer is not None and writer.wait(timeout_s):
            raise RuntimeError(f"{writer.args} ended with {writer.returncode}")


def _path(text: str) -> Path:
    return Path(text).resolve()


def _versions() -> dict[str, str]:
    names = ("torch", "transformers", "lmdeploy", "aiohttp", "numpy")
    return {name: version(name) for name in names} | {"python": platform.python_version()}
