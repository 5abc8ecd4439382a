"""kill -9 in mid-work, again and again, over every process that LMDyno consists of.

After each kill the page's text, as a follower got it, is held against the store, word by word: what was
shown and is not kept is lost. Of load tests these are the requests that were stored. Processes of LMDyno that
are still there when all is settled are orphans. Engines are processes that LMDyno owns, with a stand-in for
the model, and endpoints are scripted servers. Kills with real dashboards are in `benchmarks/chaos_pages.py`.
"""

import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial
from multiprocessing import Pipe
from pathlib import Path

import psutil

from benchmarks import chaos_pages
from benchmarks.chaos_stand import Outcome, home_folder, leave, until
from benchmarks.crowd_stand import server
from core.bench.plan import Workload
from core.bench.run.job import bench_status, start_bench
from core.domain.runs import RunState
from core.domain.specs import LaneSpec
from core.domain.turns import RequestRecord
from core.engines.manager import EngineManager
from core.engines.registry import EngineState, Registry
from core.meter.link import MeterLink
from core.settings import Settings
from core.store.runs import BenchRuns
from core.store.turns import Store
from tests.unit.bench.bench_samples import a_plan, remote
from tests.unit.engines.engine_stand_ins import lane_in, rows
from tests.unit.meter.meter_samples import model, remote_lane, turn_plan

SHARES = {
    "engine": 20,
    "endpoint": 5,
    "meter": 24,
    "load-test worker": 15,
    "job runner": 10,
    "owner": 5,
    "meter of a page": 6,
    "dashboard": 8,
    "browser": 7,
}
"""How 100 kills are shared out. `owner` is a process that owns an engine and is not started again."""
IN_A_BROWSER = chaos_pages.KINDS

_ROOT = Path(__file__).resolve().parents[1]
_STREAM = {"chunks": 4000, "interval_s": 0.005}
_ENGINE_OPTIONS = ("--chunks", "4000", "--chunk-s", "0.005")
_HANDED_IN_S = 10.0
_BENCH = Workload(prompt_tokens=16, output_tokens=1000)


def _kill_an_engine(outcome: Outcome, chance: random.Random) -> None:
    with home_folder() as settings:
        manager = EngineManager(settings, [lane := lane_in(settings.home)], rows=rows(*_ENGINE_OPTIONS))
        with closing(manager):
            manager.ensure(lane.name)
            engine = manager.wait_until_healthy(lane.name, 30)
            assert engine.pid is not None
            _kill_in_an_answer(outcome, chance, settings, lane, engine.pid)
            until(lambda: manager.status(lane.name).state is EngineState.FAILED)
        leave(outcome, settings)


def _kill_an_endpoint(outcome: Outcome, chance: random.Random, *, of_meter: bool = False) -> None:
    with home_folder() as settings:
        with server({}) as url:
            pid = next(p.pid for p in psutil.Process().children() if "tests.scripted_server" in p.cmdline())
            lane = remote_lane("a", url, model(**_STREAM))
            _kill_in_an_answer(outcome, chance, settings, lane, None if of_meter else pid)
        leave(outcome, settings)


def _kill_in_an_answer(
    outcome: Outcome, chance: random.Random, settings: Settings, lane: LaneSpec, victim: int | None
) -> None:
    """Kill that process, or the meter, while an answer is followed; compare what was shown with the store."""
    link, store = MeterLink(settings), Store(settings.database_url)
    with closing(link), closing(store):
        plan = turn_plan(lane)
        link.start(plan)
        shown, pieces, killed_s = "", 0, 0.0
        at = chance.choice((1, 2, 5, 12, 30))
        assert link._process is not None
        pid = victim or link._process.popen.pid
        for update in link.follow(plan.id, plan.requests[0].id):
            if update is None:
                continue
            shown += update.content
            pieces += bool(update.content)
            if pieces >= at and not killed_s:
                os.kill(pid, signal.SIGKILL)
                killed_s = time.monotonic()
                outcome.kills += 1
        if not killed_s:
            raise RuntimeError("the answer ended before the kill")

        def kept() -> RequestRecord | None:
            turn = store.turn(plan.id)
            return turn.requests[0] if turn and turn.done else None

        until(lambda: kept() is not None)
        # What a follower hands in comes a moment after what the dead meter left is ended.
        deadline = time.monotonic() + _HANDED_IN_S
        while time.monotonic() < deadline:
            record = kept()
            if record is not None and record.text.startswith(shown):
                break
            time.sleep(0.05)
        outcome.settle(killed_s, shown, kept())


def _kill_a_bench(outcome: Outcome, chance: random.Random, *, victim: str) -> None:
    with home_folder() as settings:
        _kill_within_a_bench(outcome, chance, settings, victim)
        leave(outcome, settings)


def _kill_within_a_bench(outcome: Outcome, chance: random.Random, settings: Settings, victim: str) -> None:
    with server({}) as url:
        lane = remote("a", url, chunks=20, interval_s=0.02)
        plan = a_plan(lane, workload=_BENCH, requests=None, seconds=300, warmup=0)
        with closing(BenchRuns(settings.database_url)) as runs:
            start_bench(settings, plan, gpu=False)
            enough = chance.choice((1, 3, 8))
            until(lambda: runs.run(plan.id) is not None and runs.request_count(plan.id) >= enough)
            record = bench_status(settings, plan.id).record
            target = record.worker if victim == "worker" else record.runner
            assert target is not None
            kept = runs.requests(plan.id)
            os.kill(target.pid, signal.SIGKILL)
            killed_s = time.monotonic()
            outcome.kills += 1
            until(lambda: bench_status(settings, plan.id).state.ended)
            run = runs.run(plan.id)
            outcome.settled_s.append(time.monotonic() - killed_s)
            still = set(runs.requests(plan.id))
            outcome.shown_tokens += len(kept)
            outcome.lost_tokens += sum(request not in still for request in kept)
            if run is None or run.state is not RunState.FAILED or run.error is None:
                outcome.exceptions.append(f"the run says {run and run.state}")
            else:
                outcome.codes[run.error.code] += 1


def _kill_an_owner(outcome: Outcome, _chance: random.Random) -> None:
    with home_folder() as settings:
        ours, theirs = Pipe()
        command = [sys.executable, "-m", "tests.unit.engines.engine_owner", str(theirs.fileno())]
        owner = subprocess.Popen([*command, str(settings.home), "2"], cwd=_ROOT, pass_fds=[theirs.fileno()])
        theirs.close()
        ours.recv()
        ours.send("start")
        ours.recv()
        engine = psutil.Process(int(ours.recv().split()[0]))
        owner.kill()
        owner.wait()
        ours.close()
        killed_s = time.monotonic()
        outcome.kills += 1
        until(lambda: Registry(settings).read()["hf"].state is EngineState.STOPPED)
        outcome.settled_s.append(time.monotonic() - killed_s)
        entry = Registry(settings).read()["hf"]
        outcome.codes[entry.error.code if entry.error else "no reason"] += 1
        if engine.is_running() and engine.status() != psutil.STATUS_ZOMBIE:
            outcome.exceptions.append("the registry says stopped while the engine runs")
        leave(outcome, settings)


_KILLS: dict[str, Callable[[Outcome, random.Random], None]] = {
    "engine": _kill_an_engine,
    "endpoint": _kill_an_endpoint,
    "meter": partial(_kill_an_endpoint, of_meter=True),
    "load-test worker": partial(_kill_a_bench, victim="worker"),
    "job runner": partial(_kill_a_bench, victim="runner"),
    "owner": _kill_an_owner,
}


def attempts(kind: str, numbers: Iterable[int], seed: int) -> Iterator[tuple[int, Outcome]]:
    """Kill once for each number; what goes wrong is counted, and the next kill follows."""
    if kind in chaos_pages.KINDS:
        yield from chaos_pages.attempts(kind, numbers, seed)
        return
    for number in numbers:
        outcome = Outcome()
        try:
            _KILLS[kind](outcome, random.Random(f"{seed} {kind} {number}"))
        except Exception:  # noqa: BLE001 - what is counted here
            outcome.exceptions.append(f"{kind} {number}: {traceback.format_exc(limit=-4)}")
        yield number, outcome
