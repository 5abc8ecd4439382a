"""Benchmark runs of three lanes of one model, and a scorecard made of them."""

from collections.abc import Sequence
from dataclasses import replace

from core.bench.results.result import results
from core.domain.runs import BenchRecord, EngineUse, GpuUse, LaneFacts, LoadLevel, MeasuredLane
from core.domain.specs import LaneSpec
from core.reports.lane_figures import LaneSpeed, lane_speed
from core.reports.scorecard import LaneNow, Scorecard, scorecard
from tests.unit.bench import bench_samples
from tests.unit.quality.quality_samples import AWQ, HF, TURBOMIND

LANES = (HF, TURBOMIND, AWQ)
WEIGHTS = {"hf": 300, "turbomind": 300, "awq": 120}
VERSION = "transformers 5.23.0"


def run_of(
    gaps_s: dict[LaneSpec, Sequence[float]],
    *,
    run_id: str = "r1",
    second_load: bool = False,
    memory_bytes: int = 2**30,
    **changes: object,
) -> BenchRecord:
    """Each lane alone at concurrency 1, a request for each of its gaps between tokens; perhaps at 4 too."""
    loads = (1, 4) if second_load else (1,)
    plan = bench_samples.a_plan(
        *gaps_s, id=run_id, load=replace(bench_samples.a_plan().load, concurrencies=loads), **changes
    )
    passes, requests = [], []
    for lane, gaps in gaps_s.items():
        for load in loads:
            number = len(passes)
            passes.append(
                bench_samples.a_pass(
                    number,
                    (lane.name,),
                    level=LoadLevel(concurrency=load),
                    engines=(EngineUse(lane=lane.name, peak_gpu_bytes=memory_bytes * load),),
                    gpus=(GpuUse(index=0, name="H200", energy_j=2.0),),
                )
            )
            for gap_s in gaps:
                timing = bench_samples.a_timing(ttft_s=10 * gap_s, gap_s=gap_s / (load**0.5))
                requests.append(
                    bench_samples.a_request(len(requests), lane.name, pass_number=number, timing=timing)
                )
    record = bench_samples.a_record(plan, passes, requests)
    facts = tuple(
        LaneFacts(lane=lane, engine_version=VERSION, device="cuda:0", weight_bytes=WEIGHTS.get(lane.name))
        for lane in gaps_s
    )
    return replace(record, run=replace(record.run, lanes=facts))


def speed_of(record: BenchRecord, lane: str) -> LaneSpeed | None:
    return lane_speed(record, results(record), lane)


def now(lane: LaneSpec, **changes: object) -> LaneNow:
    return replace(LaneNow(lane=lane, engine_version=VERSION, machine=bench_samples.MACHINE), **changes)


def measured(record: BenchRecord) -> list[MeasuredLane]:
    return [
        MeasuredLane(
            run_id=record.run.id,
            measured_at=record.run.created_at,
            plan=record.run.plan,
            lane=facts.lane,
            engine_version=facts.engine_version,
            machine=record.run.machine,
        )
        for facts in record.run.lanes
    ]


def card_of(*records: BenchRecord, lanes: Sequence[LaneNow] | None = None, baseline: str = "hf") -> Scorecard:
    """The scorecard of the records, the newest first, without any quality run."""
    by_id = {record.run.id: record for record in records}
    return scorecard(
        lanes or [now(lane) for lane in LANES],
        baseline,
        benched=[lane for record in records for lane in measured(record)],
        assessed=[],
        speed_of=lambda run: speed_of(by_id[run.run_id], run.lane.name),
        quality_of=lambda _run: None,
    )
