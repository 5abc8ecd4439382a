"""What grows with the number of engines and of stored requests: figures for docs/scale.md.

    python -m benchmarks.scale --json FILE [--engines 8 64 256] [--requests 5000] [--postgresql]

Engines are entries of the registry whose process sleeps and whose health address a server of a few lines
answers, so that the manager's own cost is measured: a round of all states as the pages ask for it, and what
its threads use of a core while nothing happens. Requests have 128 chunks and are stored as load tests and
chats store them.
"""

import argparse
import json
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.history import load_test, save_turn
from core.domain.specs import Dialect, Endpoint, EngineKind, LaneSpec, ModelSpec
from core.domain.turns import utc_now
from core.engines.manager import EngineManager
from core.engines.registry import EngineEntry, EngineState, Registry
from core.engines.status import EngineWatch
from core.settings import PROJECT_ROOT, Settings
from core.store.runs import BenchRuns
from core.store.turns import Store
from core.telemetry.processes import ProcessId, identify, this_process
from tests import postgresql

WATCHED_S = 12.0
ROUNDS = 20


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


def settings_in(folder: Path) -> Settings:
    return Settings(
        home=folder,
        lanes_file=folder / "lanes.toml",
        database_url=f"sqlite:///{folder / 'lmdyno.db'}",
        end_engines_after="never",
    )


def engines(folder: Path, number: int, port: int) -> Any:
    """The manager over so many running engines."""
    settings = settings_in(folder)
    sleepers = [subprocess.Popen(["sleep", "600"]) for _ in range(number)]
    try:
        processes = [identify(sleeper.pid) for sleeper in sleepers]
        lanes = [_lane(place) for place in range(number)]
        with Registry(settings).changing() as entries:
            for lane, process in zip(lanes, processes, strict=True):
                entries[lane.name] = _entry(settings, lane, process, port)
        manager = EngineManager(settings, lanes)
        try:
            manager.adopt_orphans()
            manager.statuses()
            rounds = [_timed(manager.statuses) for _ in range(ROUNDS)]
            cpu_before, began = time.process_time(), time.monotonic()
            time.sleep(WATCHED_S)
            share = (time.process_time() - cpu_before) / (time.monotonic() - began)
            watch = EngineWatch(settings)
            watch()
            looks = [_timed(watch) for _ in range(ROUNDS)]
        finally:
            manager._monitor.stop()
        return {
            "engines": number,
            "pages_s": _pages_in_another_process(settings, lanes),
            "all_states_s": statistics.median(rounds),
            "cores_while_idle": share,
            "a_look_of_the_sampler_s": statistics.median(looks),
            "registry_bytes": settings.engines_file.stat().st_size,
        }
    finally:
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()


def _pages_in_another_process(settings: Settings, lanes: list[LaneSpec]) -> Any:
    text = '[models.m]\ncheckpoint = "/models/m"\n'
    text += "".join(f'[lanes.{lane.name}]\nengine = "transformers"\nmodel = "m"\n' for lane in lanes)
    settings.lanes_file.write_text(text, "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", "--pages"],
        env={**os.environ, "LMDYNO_HOME": str(settings.home), "LMDYNO_LANES": str(settings.lanes_file)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    if done.returncode:
        return {"failed": done.stderr[-1500:]}
    return json.loads(done.stdout.splitlines()[-1])


def pages() -> dict[str, Any]:
    """Whole runs of two pages' scripts in Streamlit's test harness: the first one, and the median of more."""
    from streamlit.testing.v1 import AppTest

    found = {}
    for name in ("overview", "engines"):
        app = AppTest.from_file(str(PROJECT_ROOT / "streamlit_app.py"), default_timeout=120)
        app.switch_page(f"pages/{name}.py")
        times = [_timed(app.run) for _ in range(6)]
        if app.exception:
            raise RuntimeError(str(app.exception[0].value))
        found[name] = {"first": times[0], "median": statistics.median(times[1:]), "texts": len(app.markdown)}
    return found


def _lane(place: int) -> LaneSpec:
    model = ModelSpec(name="m", checkpoint="/models/m")
    return LaneSpec(name=f"node{place // 8}-gpu{place % 8}", kind=EngineKind.TRANSFORMERS, model=model)


def _entry(settings: Settings, lane: LaneSpec, process: ProcessId | None, port: int) -> EngineEntry:
    log_file = settings.logs_dir / f"engine-{lane.name}.log"
    log_file.parent.mkdir(parents=True, exist_ok=True)
    log_file.write_text("INFO: Uvicorn running\n" * 100, "utf-8")
    return EngineEntry(
        lane=lane,
        state=EngineState.HEALTHY,
        since=utc_now(),
        owner=this_process(),
        worker=this_process(),
        process=process,
        port=port,
        endpoint=Endpoint(url=f"http://127.0.0.1:{port}/v1", model="m", dialect=Dialect.TRANSFORMERS),
        log_file=str(log_file),
    )


def store(url: str, size: Callable[[], int], requests: int) -> Any:
    """Bytes and time of a stored request of a load test, and of a chat's turn with two requests."""
    source = random.Random(1)
    found: dict[str, Any] = {}
    with closing(BenchRuns(url)) as runs:
        record = load_test(source, 0)
        runs.save(record.run, record.passes, record.requests)
        before, written, began, spent = size(), 0, time.monotonic(), 0.0
        while written < requests:
            record = load_test(source, written)
            began = time.monotonic()
            runs.save(record.run, record.passes, record.requests)
            spent += time.monotonic() - began
            written += len(record.requests)
        found["load_test_request"] = {
            "requests": written,
            "bytes": (size() - before) / written,
            "per_s": written / spent,
        }
    with closing(Store(url)) as turns:
        before, began, number = size(), time.monotonic(), requests // 20
        for place in range(number):
            save_turn(turns, source, place)
        found["turn_of_two_requests"] = {
            "turns": number,
            "bytes": (size() - before) / number,
            "per_s": number / (time.monotonic() - began),
        }
    return found


def _size(file: Path) -> int:
    """With everything in it that still lies in the log beside it."""
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return file.stat().st_size


def on_postgresql(requests: int) -> Any:
    """The same on a PostgreSQL server of its own, over its Unix socket."""
    with postgresql.running() as folder:
        url = postgresql.new_database(folder)

        def size() -> int:
            with closing(psycopg.connect(url)) as connection:
                row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
                return int(row[0]) if row else 0

        return store(url, size, requests)


def _timed(act: Any) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--engines", type=int, nargs="*", default=[8, 64, 256])
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--postgresql", action="store_true", help="stores on PostgreSQL too")
    parser.add_argument("--pages", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.pages:
        print(json.dumps(pages()))
        return
    report: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.scale", *sys.argv[1:]]),
        "cores": os.cpu_count(),
        "load_average_before": os.getloadavg(),
        "engines": [],
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), Healthy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for number in options.engines:
        with tempfile.TemporaryDirectory() as folder:
            report["engines"].append(engines(Path(folder), number, server.server_port))
            print(report["engines"][-1], flush=True)
    with tempfile.TemporaryDirectory() as folder:
        url, file = settings_in(Path(folder)).database_url, Path(folder, "lmdyno.db")
        report["store"] = store(url, lambda: _size(file), options.requests)
        print(report["store"], flush=True)
    if options.postgresql:
        report["store_postgresql"] = on_postgresql(options.requests)
        print(report["store_postgresql"], flush=True)
    report = replace_floats(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1), "utf-8")


def replace_floats(value: Any) -> Any:
    """Rounded to what can be told apart."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: replace_floats(each) for key, each in value.items()}
    return [replace_floats(each) for each in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    main()
