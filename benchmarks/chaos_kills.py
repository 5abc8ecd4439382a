"""kill -9 in mid-work, again and again, over every process that LMDyno consists of.

After each kill the page's text, as a follower got it, is held against the store: what was shown and is not
kept is lost. Processes of LMDyno that are still there when all is settled are orphans. Engines are scripted
servers and stand-ins; dashboards are real ones, and tabs are websocket sessions that break off.
"""

import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil

from benchmarks.crowd_stand import lanes_file, scenarios, server
from benchmarks.page_session import PageSession
from core.bench.planning.plan import Workload
from core.bench.run.job import bench_status, start_bench
from core.domain.bench import RunState
from core.domain.turns import RequestRecord, TurnRecord
from core.engines.registry import EngineState, Registry
from core.meter.link import MeterLink
from core.settings import Settings
from core.store.runs.bench_runs import BenchRuns
from core.store.turns import Store
from tests.e2e.e2e_dashboard import started_dashboard
from tests.unit.bench.bench_samples import a_plan, remote
from tests.unit.meter.meter_samples import model, remote_lane, turn_plan

SHARES = {
    "engine": 30,
    "meter": 30,
    "load-test worker": 15,
    "job runner": 10,
    "owner": 5,
    "dashboard": 5,
    "tab": 5,
}
"""How 100 kills are shared out. `owner` is a process that owns an engine and is not started again."""

_ENGINES = Path(__file__).resolve().parents[1] / "tests" / "unit" / "engines"
_PATIENCE_S = 60.0
_STREAM = {"chunks": 4000, "interval_s": 0.005}
_BENCH = Workload(prompt_tokens=16, output_tokens=1000)


@dataclass
class Outcome:
    """What came of the kills of one kind."""

    kills: int = 0
    shown_tokens: int = 0
    lost_tokens: int = 0
    """Shown to a follower, and not in the store once all is settled."""
    orphans: int = 0
    exceptions: list[str] = field(default_factory=list)
    settled_s: list[float] = field(default_factory=list)
    """From each kill until the store said how the work had ended."""
    codes: set[str] = field(default_factory=set)

    def settle(self, killed_s: float, shown: str, record: RequestRecord | None) -> None:
        self.settled_s.append(time.monotonic() - killed_s)
        kept = record.text if record else ""
        self.shown_tokens += len(shown.split())
        self.lost_tokens += 0 if kept.startswith(shown) else max(1, len(shown.split()) - len(kept.split()))
        if record is not None and record.error is not None:
            self.codes.add(record.error.code)


@contextmanager
def _home() -> Iterator[Settings]:
    with tempfile.TemporaryDirectory(prefix="lmdyno-chaos-", ignore_cleanup_errors=True) as name:
        home = Path(name)
        yield Settings(
            home=home, lanes_file=home / "lanes.toml", database_url=f"sqlite:///{home / 'lmdyno.db'}"
        )


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not settle")
        time.sleep(0.05)


def _is_ours(process: psutil.Process) -> bool:
    """Whether it still runs and is LMDyno's, not the scripted server's or this one."""
    try:
        is_over = process.status() == psutil.STATUS_ZOMBIE
        return process.pid != os.getpid() and not is_over and "tests.scripted_server" not in process.cmdline()
    except psutil.Error:
        return False


def _left_over(home: Path) -> int:
    """Processes that name the home folder or were started for it; they get a while to end."""

    def found() -> list[psutil.Process]:
        own = psutil.Process().children(recursive=True)
        named = [
            process
            for process in psutil.process_iter(["cmdline"])
            if any(str(home) in part for part in process.info["cmdline"] or ())
        ]
        return [process for process in {*own, *named} if _is_ours(process)]

    deadline = time.monotonic() + _PATIENCE_S
    while (left := found()) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in left:
        process.kill()
    return len(left)


def _turn(store: Store, turn_id: str) -> TurnRecord | None:
    turn = store.turn(turn_id)
    return turn if turn and turn.done else None


def _kill_in_an_answer(outcome: Outcome, chance: random.Random, *, of_meter: bool) -> None:
    with _home() as settings, server({}) as url:
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
            _until(lambda: _turn(store, plan.id) is not None)
            # What a follower hands in comes a moment after what the dead meter left is ended.
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                turn = _turn(store, plan.id)
                if turn is not None and turn.requests[0].text.startswith(shown):
                    break
                time.sleep(0.05)
            turn = _turn(store, plan.id)
            outcome.settle(killed_s, shown, turn.requests[0] if turn else None)
        outcome.orphans += _left_over(settings.home)


def _kill_a_bench(outcome: Outcome, chance: random.Random, *, victim: str) -> None:
    with _home() as settings, server({}) as url:
        lane = remote("a", url, chunks=20, interval_s=0.02)
        plan = a_plan(lane, workload=_BENCH, requests=None, seconds=300, warmup=0)
        with closing(BenchRuns(settings.database_url)) as runs:
            start_bench(settings, plan, gpu=False)
            enough = chance.choice((1, 3, 8))
            _until(lambda: runs.run(plan.id) is not None and runs.request_count(plan.id) >= enough)
            record = bench_status(settings, plan.id).record
            target = record.worker if victim == "worker" else record.runner
            assert target is not None
            kept = runs.request_count(plan.id)
            os.kill(target.pid, signal.SIGKILL)
            killed_s = time.monotonic()
            outcome.kills += 1
            _until(lambda: bench_status(settings, plan.id).state.ended)
            run = runs.run(plan.id)
            outcome.settled_s.append(time.monotonic() - killed_s)
            outcome.lost_tokens += max(0, kept - runs.request_count(plan.id))
            if run is None or run.state is not RunState.FAILED or run.error is None:
                outcome.exceptions.append(f"the run says {run and run.state}")
            else:
                outcome.codes.add(run.error.code)
        outcome.orphans += _left_over(settings.home)


def _kill_an_owner(outcome: Outcome, _chance: random.Random) -> None:
    with _home() as settings:
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
        _until(lambda: Registry(settings).read()["hf"].state is EngineState.STOPPED)
        outcome.settled_s.append(time.monotonic() - killed_s)
        entry = Registry(settings).read()["hf"]
        outcome.codes.add(entry.error.code if entry.error else "")
        outcome.orphans += engine.is_running() and engine.status() != psutil.STATUS_ZOMBIE
        outcome.orphans += _left_over(settings.home)


def _kill_a_page(outcome: Outcome, chance: random.Random, *, victim: str) -> None:
    """A dashboard in mid-answer, or a tab; the surviving meter finishes and stores the answers."""
    seconds = 6.0  # less than the 512 tokens that the page asks for
    with _home() as settings, server(scenarios(seconds)) as url:
        with started_dashboard(settings.home, lanes_file(url)) as dashboard:
            asyncio.run(_ask_and_leave(dashboard.url, chance.uniform(1, seconds / 2), victim == "tab"))
            if victim == "dashboard":
                dashboard.process.kill()
                dashboard.process.wait()
            killed_s = time.monotonic()
            outcome.kills += 1
            store = Store(settings.database_url)
            with closing(store):
                _until(lambda: any(_turn_ids(store)) and all(_turn(store, each) for each in _turn_ids(store)))
                outcome.settled_s.append(time.monotonic() - killed_s)
                for each in _turn_ids(store):
                    turn = store.turn(each)
                    for record in turn.requests if turn else ():
                        whole = str(scenarios(seconds)[record.lane.name]["text"])
                        outcome.shown_tokens += len(whole.split())
                        outcome.lost_tokens += len(whole.split()) - len(record.text.split())
        outcome.orphans += _left_over(settings.home)


def _turn_ids(store: Store) -> list[str]:
    return [turn.id for summary in store.conversations() for turn in store.conversation(summary.id)]


async def _ask_and_leave(url: str, after_s: float, breaks_off: bool) -> None:
    async with aiohttp.ClientSession() as http:
        page = PageSession(http, url, "chat")
        await page.open()
        await page.choose("Together", "Together")
        await page.ask("Go on.")
        await asyncio.sleep(after_s)
        if breaks_off:
            await page.close()


_KILLS: dict[str, Callable[[Outcome, random.Random], None]] = {
    "engine": lambda outcome, chance: _kill_in_an_answer(outcome, chance, of_meter=False),
    "meter": lambda outcome, chance: _kill_in_an_answer(outcome, chance, of_meter=True),
    "load-test worker": lambda outcome, chance: _kill_a_bench(outcome, chance, victim="worker"),
    "job runner": lambda outcome, chance: _kill_a_bench(outcome, chance, victim="runner"),
    "owner": _kill_an_owner,
    "dashboard": lambda outcome, chance: _kill_a_page(outcome, chance, victim="dashboard"),
    "tab": lambda outcome, chance: _kill_a_page(outcome, chance, victim="tab"),
}


def run(kind: str, kills: int, seed: int) -> Outcome:
    """Kill so often; what goes wrong is counted, and the next kill follows."""
    outcome = Outcome()
    for number in range(kills):
        try:
            _KILLS[kind](outcome, random.Random(f"{seed} {kind} {number}"))
        except Exception as exc:  # noqa: BLE001 - what is counted here
            outcome.exceptions.append(f"{kind} {number}: {type(exc).__name__}: {exc}")
    return outcome
