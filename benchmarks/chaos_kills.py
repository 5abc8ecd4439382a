"""kill -9 in mid-work, again and again, over every process that LMDyno consists of.

After each kill the page's text, as a follower got it, is held against the store: what was shown and is not
kept is lost. Processes of LMDyno that are still there when all is settled are orphans. Engines are scripted
servers and stand-ins. Kills of dashboards and browsers are in `benchmarks/chaos_pages.py`.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil

from benchmarks import chaos_pages
from benchmarks.chaos_stand import Outcome, home_folder, left_over, until
from benchmarks.crowd_stand import server
from core.bench.planning.plan import Workload
from core.bench.run.job import bench_status, start_bench
from core.domain.bench import RunState
from core.domain.turns import TurnRecord
from core.engines.registry import EngineState, Registry
from core.meter.link import MeterLink
from core.store.runs.bench_runs import BenchRuns
from core.store.turns import Store
from tests.unit.bench.bench_samples import a_plan, remote
from tests.unit.meter.meter_samples import model, remote_lane, turn_plan

SHARES = {
    "engine": 25,
    "meter": 30,
    "load-test worker": 15,
    "job runner": 10,
    "owner": 5,
    "dashboard": 8,
    "browser": 7,
}
"""How 100 kills are shared out. `owner` is a process that owns an engine and is not started again."""

_ENGINES = Path(__file__).resolve().parents[1] / "tests" / "unit" / "engines"
_STREAM = {"chunks": 4000, "interval_s": 0.005}
_BENCH = Workload(prompt_tokens=16, output_tokens=1000)


def _turn(store: Store, turn_id: str) -> TurnRecord | None:
    turn = store.turn(turn_id)
    return turn if turn and turn.done else None


def _kill_in_an_answer(outcome: Outcome, chance: random.Random, *, of_meter: bool) -> None:
    with home_folder() as settings, server({}) as url:
        server_pid = next(
            p.pid for p in psutil.Process().children() if "tests.scripted_server" in p.cmdline()
        )
        link, store = MeterLink(settings), Store(settings.database_url)
        with closing(link), closing(store):
            plan = turn_plan(remote_lane("a", url, model(**_STREAM)))
            link.start(plan)
            shown, pieces, killed_s = "", 0, 0.0
            at = chance.choice((1, 2, 5, 12, 30))
            meter = link._process
            for update in link.follow(plan.id, plan.requests[0].id):
                if update is None:
                    continue
                shown += update.content
                pieces += bool(update.content)
                if pieces >= at and not killed_s and meter is not None:
                    os.kill(meter.popen.pid if of_meter else server_pid, signal.SIGKILL)
                    killed_s = time.monotonic()
                    outcome.kills += 1
            until(lambda: _turn(store, plan.id) is not None)
            # What a follower hands in comes a moment after what the dead meter left is ended.
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                turn = _turn(store, plan.id)
                if turn is not None and turn.requests[0].text.startswith(shown):
                    break
                time.sleep(0.05)
            turn = _turn(store, plan.id)
            outcome.settle(killed_s, shown, turn.requests[0] if turn else None)
        outcome.orphans += left_over(settings.home)


def _kill_a_bench(outcome: Outcome, chance: random.Random, *, victim: str) -> None:
    with home_folder() as settings, server({}) as url:
        lane = remote("a", url, chunks=20, interval_s=0.02)
        plan = a_plan(lane, workload=_BENCH, requests=None, seconds=300, warmup=0)
        with closing(BenchRuns(settings.database_url)) as runs:
            start_bench(settings, plan, gpu=False)
            enough = chance.choice((1, 3, 8))
            until(lambda: runs.run(plan.id) is not None and runs.request_count(plan.id) >= enough)
            record = bench_status(settings, plan.id).record
            target = record.worker if victim == "worker" else record.runner
            assert target is not None
            kept = runs.request_count(plan.id)
            os.kill(target.pid, signal.SIGKILL)
            killed_s = time.monotonic()
            outcome.kills += 1
            until(lambda: bench_status(settings, plan.id).state.ended)
            run = runs.run(plan.id)
            outcome.settled_s.append(time.monotonic() - killed_s)
            outcome.lost_tokens += max(0, kept - runs.request_count(plan.id))
            if run is None or run.state is not RunState.FAILED or run.error is None:
                outcome.exceptions.append(f"the run says {run and run.state}")
            else:
                outcome.codes.add(run.error.code)
        outcome.orphans += left_over(settings.home)


def _kill_an_owner(outcome: Outcome, _chance: random.Random) -> None:
    with home_folder() as settings:
        owner = subprocess.Popen(
            [sys.executable, str(_ENGINES / "engine_owner.py"), str(settings.home), "2"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert owner.stdin is not None
        assert owner.stdout is not None
        owner.stdout.readline()
        owner.stdin.write("\n")
        owner.stdin.flush()
        owner.stdout.readline()
        engine = psutil.Process(int(owner.stdout.readline().split()[0]))
        owner.kill()
        owner.wait()
        killed_s = time.monotonic()
        outcome.kills += 1
        until(lambda: Registry(settings).read()["hf"].state is EngineState.STOPPED)
        outcome.settled_s.append(time.monotonic() - killed_s)
        entry = Registry(settings).read()["hf"]
        outcome.codes.add(entry.error.code if entry.error else "")
        outcome.orphans += engine.is_running() and engine.status() != psutil.STATUS_ZOMBIE
        outcome.orphans += left_over(settings.home)


_KILLS: dict[str, Callable[[Outcome, random.Random], None]] = {
    "engine": lambda outcome, chance: _kill_in_an_answer(outcome, chance, of_meter=False),
    "meter": lambda outcome, chance: _kill_in_an_answer(outcome, chance, of_meter=True),
    "load-test worker": lambda outcome, chance: _kill_a_bench(outcome, chance, victim="worker"),
    "job runner": lambda outcome, chance: _kill_a_bench(outcome, chance, victim="runner"),
    "owner": _kill_an_owner,
}


def run(kind: str, kills: int, seed: int) -> Outcome:
    """Kill so often; what goes wrong is counted, and the next kill follows."""
    if kind in chaos_pages.KINDS:
        return chaos_pages.run(kind, kills, seed)
    outcome = Outcome()
    for number in range(kills):
        try:
            _KILLS[kind](outcome, random.Random(f"{seed} {kind} {number}"))
        except Exception as exc:  # noqa: BLE001 - what is counted here
            outcome.exceptions.append(f"{kind} {number}: {type(exc).__name__}: {exc}")
    return outcome
