"""How fast the history is over a store with 100,000 requests of load tests and thousands of turns.

    python -m benchmarks.history [--runs N] [--turns N] [--repeats N] [--home DIR] [--json FILE]

Fills a store through its own API, then times the store's queries and whole runs of the page's script in
Streamlit's test harness (router, page and store; no browser and no network). The target is a page within
0.5 s. `--home` keeps the store for another time, and fills only an empty one.
"""

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from core.bench.plan import BenchPlan, Load, Workload
from core.bench.results.result import RunRecords, summarise
from core.bench.run.runner import new_run
from core.domain.conversation import Sampling, messages_for
from core.domain.runs import (
    BenchPass,
    BenchRecord,
    BenchRequest,
    HistoryFilter,
    LaneFacts,
    LoadLevel,
    RunKind,
    RunState,
)
from core.domain.specs import EndpointSpec, EngineKind, LaneSpec
from core.domain.timing import Timing
from core.domain.turns import (
    ErrorInfo,
    FinishReason,
    Machine,
    Phase,
    RequestPlan,
    RequestRecord,
    TurnPlan,
    utc_now,
)
from core.reports.scorecard import ScorecardReader
from core.settings import PROJECT_ROOT
from core.store.history import History
from core.store.runs import BenchRuns, QualityRuns
from core.store.turns import Store

LEVELS = (1, 4, 16)
REQUESTS_PER_PASS = 55
TOKENS = 64
TARGET_S = 0.5
LANES = tuple(
    LaneSpec(
        name=name,
        kind=EngineKind.ENDPOINT,
        endpoint=EndpointSpec(url=f"http://127.0.0.1:{port}/v1", model=model),
    )
    for name, port, model in (
        ("hf", 40001, "internlm2-1_8b"),
        ("turbomind", 40002, "internlm2-1_8b"),
        ("awq", 40003, "internlm2-1_8b-awq"),
        ("remote", 40004, "qwen2.5-7b"),
    )
)
MACHINES = tuple(
    Machine(host=host, platform="Linux", python="3.12.1", cpu="EPYC", cores=16, gpus=gpus)
    for host, gpus in (("desk", ()), ("lab", ("NVIDIA H100",)))
)
TITLES = ("quick look", "chat", "long context", "throughput", "after the driver update")
PROMPTS = ("What is Ohm's law?", "Write a haiku about rain.", "Explain KV caches.", "Translate: good night")
ENDPOINT_LANES = "".join(
    f'[lanes.{lane.name}]\nengine = "endpoint"\n'
    f'url = "{lane.endpoint.url}"\nmodel = "{lane.endpoint.model}"\n'
    for lane in LANES
    if lane.endpoint
)


def timing(source: random.Random, sent_ns: int, *, ttft_s: float, gap_s: float, tokens: int) -> Timing:
    """An answer with one token a chunk and some jitter."""
    timestamps = []
    at = sent_ns + round(ttft_s * source.uniform(0.8, 1.4) * 1e9)
    for _ in range(tokens):
        timestamps.append(at)
        at += round(gap_s * source.uniform(0.7, 1.5) * 1e9)
    return Timing(
        sent_ns=sent_ns,
        first_event_ns=timestamps[0],
        chunk_ns=tuple(timestamps),
        content_chars=(4,) * tokens,
        output_tokens=tokens,
        ended_ns=timestamps[-1],
    )


def load_test(source: random.Random, number: int) -> BenchRecord:
    """Two lanes, three loads, one repeat; a few requests failed."""
    lanes = tuple(source.sample(LANES, 2))
    created_at = utc_now() - timedelta(hours=5 * number, minutes=source.randrange(60))
    plan = BenchPlan(
        lanes=lanes,
        workload=Workload(prompt_tokens=source.choice((128, 128, 512)), output_tokens=TOKENS),
        load=Load(concurrencies=LEVELS),
        requests=REQUESTS_PER_PASS,
        title=f"{source.choice(TITLES)} {number}",
        created_at=created_at,
    )
    passes: list[BenchPass] = []
    requests: list[BenchRequest] = []
    for lane in lanes:
        speed = 1 + LANES.index(lane) / 2
        for level in LEVELS:
            each = BenchPass(
                number=len(passes),
                repeat=0,
                lanes=(lane.name,),
                level=LoadLevel(concurrency=level),
                started_at=created_at,
                start_ns=0,
                end_ns=round(REQUESTS_PER_PASS / level * 0.8e9),
            )
            passes.append(each)
            requests += pass_requests(source, each, lane.name, speed, first_number=len(requests))
    run = replace(
        new_run(plan, source.choice(MACHINES)),
        state=RunState.DONE,
        created_at=created_at,
        finished_at=created_at + timedelta(minutes=4),
        lanes=tuple(LaneFacts(lane=lane, engine_version="lmdeploy 0.17.0") for lane in lanes),
    )
    return BenchRecord(run=run, passes=tuple(passes), requests=tuple(requests))


def pass_requests(
    source: random.Random, each: BenchPass, lane: str, speed: float, *, first_number: int
) -> Iterator[BenchRequest]:
    level = each.level.concurrency or 1
    for place in range(REQUESTS_PER_PASS):
        failed = source.random() < 0.005
        yield BenchRequest(
            number=first_number + place,
            pass_number=each.number,
            lane=lane,
            warmup=place < 3,
            timing=None
            if failed
            else timing(
                source,
                round(place // level * 0.8e9),
                ttft_s=0.05 * level**0.5 / speed,
                gap_s=0.01 * (1 + level / 16) / speed,
                tokens=TOKENS,
            ),
            prompt_tokens=140,
            finish_reason=FinishReason.ERROR if failed else FinishReason.LENGTH,
            error=ErrorInfo("engine-timeout", "No first token in time") if failed else None,
        )


def save_turn(store: Store, source: random.Random, number: int) -> None:
    lanes = source.sample(LANES, 2)
    prompt = f"{source.choice(PROMPTS)} ({number})"
    plan = TurnPlan(
        conversation_id=f"talk{number // 4}",
        prompt=prompt,
        requests=tuple(RequestPlan(lane=lane, messages=messages_for(prompt)) for lane in lanes),
        sampling=Sampling(),
        created_at=utc_now() - timedelta(minutes=11 * number),
    )
    store.save_turn(plan, source.choice(MACHINES))
    for request in plan.requests:
        store.save_request(
            RequestRecord(
                id=request.id,
                turn_id=plan.id,
                lane=request.lane,
                messages=request.messages,
                phase=Phase.DONE,
                timing=timing(source, 0, ttft_s=0.08, gap_s=0.012, tokens=TOKENS),
                text="word " * TOKENS,
                prompt_tokens=24,
                finish_reason=FinishReason.STOP,
            )
        )


def fill(database_url: str, *, runs: int, turns: int) -> None:
    source = random.Random(1)
    with closing(BenchRuns(database_url)) as bench_runs, closing(History(database_url)) as history:
        for number in range(runs):
            record = load_test(source, number)
            bench_runs.save(record.run, record.passes, record.requests)
            if number % 9 == 0:
                history.annotate(
                    RunKind.BENCH, record.run.id, note=f"Note {number}", tag=source.choice(("keep", "demo"))
                )
    with closing(Store(database_url)) as store:
        for number in range(turns):
            save_turn(store, source, number)


def summarise_all(database_url: str) -> float:
    """What the page does once for each load test; returns the seconds a run."""
    with closing(BenchRuns(database_url)) as bench_runs, closing(History(database_url)) as history:
        entries = history.entries(HistoryFilter(kind=RunKind.BENCH), limit=100_000)
        started = time.perf_counter()
        for entry in entries:
            if entry.summary is None:
                history.keep_summary(entry.id, entry.updated_at, summarise(bench_runs.record(entry.id)))
        return (time.perf_counter() - started) / max(1, len(entries))


def timed(what: Callable[[], object], repeats: int) -> dict[str, float]:
    """p50 and p95 of some calls, the first one left out."""
    what()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        what()
        taken.append(time.perf_counter() - started)
    return {
        "p50_s": statistics.median(taken),
        "p95_s": statistics.quantiles(taken, n=20, method="inclusive")[-1],
        "n": repeats,
    }


def query_times(database_url: str, repeats: int) -> dict[str, dict[str, float]]:
    with closing(History(database_url)) as history, closing(BenchRuns(database_url)) as bench_runs:
        found = history.count()
        run_id = history.entries(HistoryFilter(kind=RunKind.BENCH), limit=1)[0].id
        month = HistoryFilter(since=utc_now() - timedelta(days=30))
        queries: dict[str, Callable[[], object]] = {
            "first page": lambda: history.entries(limit=25),
            "last page": lambda: history.entries(limit=25, offset=max(0, found - 25)),
            "count": history.count,
            "choices": history.choices,
            "text": lambda: history.entries(HistoryFilter(text="driver"), limit=25),
            "count of a text": lambda: history.count(HistoryFilter(text="driver")),
            "lane": lambda: history.entries(HistoryFilter(lane="awq"), limit=25),
            "count of a lane": lambda: history.count(HistoryFilter(lane="awq")),
            "count of a month": lambda: history.count(month),
            "one run with its requests": lambda: bench_runs.record(run_id),
        }
        return {name: timed(query, repeats) for name, query in queries.items()}


def scorecard_times(database_url: str, repeats: int) -> dict[str, dict[str, float]]:
    """The overview's scorecard of all lanes: the first time, which reads runs, and again."""
    with closing(BenchRuns(database_url)) as bench_runs, closing(QualityRuns(database_url)) as quality_runs:

        def reader() -> ScorecardReader:
            records = RunRecords(bench_runs)
            return ScorecardReader(bench_runs, quality_runs, records, describe=lambda: MACHINES[1])

        kept = reader()
        names = [lane.name for lane in LANES]
        return {
            "which runs measured the lanes": timed(lambda: bench_runs.measured(names), repeats),
            "scorecard, first time": timed(lambda: reader().scorecard(LANES, "hf", {}), max(2, repeats // 4)),
            "scorecard, again": timed(lambda: kept.scorecard(LANES, "hf", {}), repeats),
        }


def page_times(database_url: str, repeats: int) -> dict[str, dict[str, float]]:
    from streamlit.testing.v1 import AppTest

    def page(**query: str) -> Callable[[], object]:
        app = AppTest.from_file(str(PROJECT_ROOT / "streamlit_app.py"), default_timeout=120)
        for name, value in query.items():
            app.query_params[name] = value
        app.switch_page("pages/history.py")

        def run() -> None:
            app.run()
            if app.exception or app.error:
                raise RuntimeError(f"{query}: {[*app.exception, *app.error]}")

        return run

    with closing(History(database_url)) as history:
        last = str((history.count() - 1) // 25 + 1)
        runs = [entry.id for entry in history.entries(HistoryFilter(kind=RunKind.BENCH), limit=6)]
        turn = history.entries(HistoryFilter(kind=RunKind.CHAT), limit=1)[0].id
    views = {
        "list": page(),
        "list, last page": page(history_page=last),
        "list, by text": page(history_text="driver"),
        "list, by lane": page(history_lane="awq"),
        "a turn": page(turn=turn),
        "a run": page(run=runs[0]),
        "two runs compared": page(compare=",".join(runs[:2])),
        "six runs compared": page(compare=",".join(runs)),
    }
    return {name: timed(view, repeats) for name, view in views.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--runs", type=int, default=304)
    parser.add_argument("--turns", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        result = measure(arguments.home or Path(temporary), arguments)
    print(json.dumps(result, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2), "utf-8")


def measure(home: Path, arguments: argparse.Namespace) -> dict[str, object]:
    home.mkdir(parents=True, exist_ok=True)
    lanes_file = home / "lanes.toml"
    lanes_file.write_text(ENDPOINT_LANES, "utf-8")
    os.environ |= {"LMDYNO_HOME": str(home), "LMDYNO_LANES": str(lanes_file)}
    database = home / "lmdyno.db"
    url = f"sqlite:///{database}"
    if not database.exists():
        fill(url, runs=arguments.runs, turns=arguments.turns)
    once_s = summarise_all(url)
    return {
        "requests_of_load_tests": arguments.runs * len(LEVELS) * 2 * REQUESTS_PER_PASS,
        "turns": arguments.turns,
        "database_bytes": database.stat().st_size,
        "summary_once_a_run_s": once_s,
        "target_s": TARGET_S,
        "queries": query_times(url, arguments.repeats),
        "scorecard": scorecard_times(url, arguments.repeats),
        "pages": page_times(url, arguments.repeats),
    }


if __name__ == "__main__":
    main()
