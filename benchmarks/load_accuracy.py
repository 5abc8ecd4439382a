"""How right a load test's figures are: against a server with known timings, at 1, 32 and 256 streams.

    python benchmarks/load_accuracy.py [--out FILE.json]

`python -m core bench` is run as anybody would run it, and every figure of its JSON is compared with plain
arithmetic (tests/expected_figures.py) on two kinds of known times: the schedule that the server was told to
keep, and what it really wrote by its own timestamps. Mean, p50 and p95 have to be within their bounds of
what was written, since a server that is late on a busy machine is not the client's error; the p50 of TTFT
and TPOT also of the schedule. The p95 of single gaps has a latency's bound: what a timestamp is late by is
many per cent of a short gap. Counts have to be exact: answers, failures by cause, tokens, values of each
figure. The requests of an open loop have to arrive at the planned rate. Exit code 1: something is out of
bounds.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.load_cases import LOADS, Lane, Load  # noqa: E402
from benchmarks.meter import scripted_server, seen_by, this_machine, told  # noqa: E402
from tests.expected_figures import FIGURES, STATISTICS, Answer, figures_of  # noqa: E402

LATENCIES = ("ttft_s", "e2e_s")
GAPS = ("itl_s", "icl_s")
JUDGED = ("mean", "p50", "p95")
SCHEDULE_RATIO = 0.02
WARMUP = 1


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--workers", type=int, default=1, help="processes that send the requests")
    options = parser.parse_args()
    out = options.out
    machine = this_machine()
    found = {}
    for load in LOADS:
        with scripted_server() as url:
            document = measure(url, load, options.workers)
            found[load.name] = compare(load, document, seen_by(url))
        print("\n".join(table(load, found[load.name])), flush=True)
    problems = [
        f"{load}, {lane}: {problem}"
        for load, lanes in found.items()
        for lane, figures in lanes.items()
        for problem in figures["problems"]
    ]
    print("\n".join(problems) or "all within bounds")
    print(told(machine))
    if out:
        bounds = {load.name: load.bounds._asdict() for load in LOADS}
        figures = {
            "machine": machine,
            "workers": options.workers,
            "bounds": bounds,
            "loads": found,
            "problems": problems,
        }
        out.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    return 1 if problems else 0


def measure(url: str, load: Load, workers: int) -> dict[str, Any]:
    """The JSON document of a run over all lanes of a load."""
    with tempfile.TemporaryDirectory() as folder:
        lanes, prompts, report = (Path(folder) / name for name in ("lanes.toml", "go.txt", "report.json"))
        lanes.write_text("\n".join(lane_table(url, lane) for lane in load.lanes), "utf-8")
        prompts.write_text("Go.\n", "utf-8")
        done = subprocess.run(
            [
                *(sys.executable, "-m", "core", "bench"),
                *(option for lane in load.lanes for option in ("--lane", lane.name)),
                *("--prompts", str(prompts), "--output-tokens", "100000", "--natural"),
                *("--warmup", str(WARMUP), "--requests", str(load.requests), *load.options),
                *("--workers", str(workers)),
                *("--goodput", f"ttft={load.slow_s}", "--json", str(report), "--raw"),
            ],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={"LMDYNO_HOME": folder, "LMDYNO_LANES": str(lanes), "PATH": ""},
            timeout=600,
        )
        if not report.exists():  # its exit code tells of failed requests, which are meant to fail
            raise RuntimeError(f"{load.name}: {done.stderr}")
        return json.loads(report.read_text("utf-8"))


def lane_table(url: str, lane: Lane) -> str:
    """The lane for lanes.toml; a JSON text is a TOML one too."""
    fields = {"engine": "endpoint", "url": url, "dialect": lane.dialect, "model": lane.model}
    return "\n".join(
        (f"[lanes.{lane.name}]", *(f"{key} = {json.dumps(text)}" for key, text in fields.items()))
    )


def compare(
    load: Load, document: Mapping[str, Any], seen: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Of each lane: its figures beside the known ones, its open loop, and what is wrong."""
    found = {}
    for lane in load.lanes:
        (point,) = (point for point in document["points"] if point["lane"] == lane.name)
        served = [each for each in seen if each["body"]["model"] == lane.model][WARMUP:]
        answers = written(lane, served)
        figures = {
            **latencies(point, figures_of(scheduled(load, lane)), figures_of(answers)),
            **throughput(load, point, answers, served),
        }
        schedule = None
        if load.rate_req_per_s is not None:
            sent = [each for each in document["raw"]["requests"] if each["lane"] == lane.name]
            schedule = open_loop(point, [each["planned_ns"] for each in sent if not each["warmup"]], served)
        found[lane.name] = {
            "requests": point["requests"],
            "figures": figures,
            "open_loop": schedule,
            "problems": [
                *miscounts(load, lane, point),
                *misses(load, figures),
                *([] if schedule is None else lapses(schedule)),
            ],
        }
    return found


def scheduled(load: Load, lane: Lane) -> list[Answer]:
    """All answers that come to their end."""
    return lane.answers * (load.requests // len(lane.turns))


def written(lane: Lane, served: Sequence[Mapping[str, Any]]) -> list[Answer]:
    """The answers that were written to their end, by the server's timestamps from the arrival of each
    request."""
    (shape, *_) = lane.answers
    return [
        Answer(
            chunks_s=[(timestamp_ns - each["received_ns"]) / 1e9 for timestamp_ns in each["chunk_ns"]],
            tokens_per_chunk=shape.tokens_per_chunk,
            names_tokens=shape.names_tokens,
        )
        for each in served
        if len(each["chunk_ns"]) == len(shape.chunks_s)
    ]


def latencies(
    point: Mapping[str, Any], scheduled: Mapping[str, Any], written: Mapping[str, Any]
) -> dict[str, dict[str, float | None]]:
    """`FIGURE.STATISTIC`: as measured, by the schedule, and by what was written."""
    return {
        f"{figure}.{statistic}": {
            "measured": point[figure][statistic],
            "scheduled": scheduled[figure][statistic],
            "written": written[figure][statistic],
        }
        for figure in FIGURES
        if point[figure] and written[figure]
        for statistic in STATISTICS
    }


def throughput(
    load: Load, point: Mapping[str, Any], answers: Sequence[Answer], served: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, float | None]]:
    """What is by the second, over the server's time from the first arrival to the last end."""
    window_s = (max(each["ended_ns"] for each in served) - min(each["received_ns"] for each in served)) / 1e9
    good = sum(answer.chunks_s[0] <= load.slow_s for answer in answers)
    known = {
        "duration_s": window_s,
        "system_tok_per_s": sum(answer.tokens for answer in answers) / window_s,
        "req_per_s": len(answers) / window_s,
        "goodput_req_per_s": good / window_s,
    }
    return {
        name: {"measured": point[name], "scheduled": None, "written": value} for name, value in known.items()
    }


def open_loop(
    point: Mapping[str, Any], planned_ns: Sequence[int], served: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The planned rate, the rates at which requests were sent and arrived, and the delay of each request."""
    return {
        "planned_req_per_s": rate_per_s(planned_ns),
        "sent_req_per_s": point["sent_req_per_s"],
        "received_req_per_s": rate_per_s([each["received_ns"] for each in served]),
        "delay_s": {name: point["delay_s"][name] for name in ("p50", "p95", "max")},
    }


def rate_per_s(timestamps_ns: Sequence[int]) -> float:
    return (len(timestamps_ns) - 1) / (max(timestamps_ns) - min(timestamps_ns)) * 1e9


def miscounts(load: Load, lane: Lane, point: Mapping[str, Any]) -> Iterator[str]:
    """What has to be exact and is not."""
    answers, rounds = scheduled(load, lane), load.requests // len(lane.turns)
    known = {name: spread["n"] if spread else None for name, spread in figures_of(answers).items()}
    known |= {
        "ok": len(answers),
        "output_tokens": sum(answer.tokens for answer in answers),
        "by_code": {code: count * rounds for code, count in lane.codes.items()},
        "goodput_ratio": sum(answer.chunks_s[0] <= load.slow_s for answer in answers) / load.requests,
    }
    measured = {name: point[name]["n"] if point[name] else None for name in FIGURES}
    measured |= {name: point["requests"][name] for name in ("ok", "by_code")}
    measured |= {name: point[name] for name in ("output_tokens", "goodput_ratio")}
    for name, value in known.items():
        if measured[name] != value:
            yield f"{name}: {measured[name]} instead of {value}"


def misses(load: Load, figures: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The figures out of their bounds."""
    for name, values in figures.items():
        figure, _, statistic = name.partition(".")
        if statistic and statistic not in JUDGED:
            continue
        is_ratio = not (figure in LATENCIES or (figure in GAPS and statistic == "p95"))
        bound = load.bounds.ratio if is_ratio else load.bounds.latency_s
        known = ("written", "scheduled") if name in ("ttft_s.p50", "tpot_s.p50") else ("written",)
        for whose in known:
            off = error(values, whose, is_ratio=is_ratio)
            if abs(off) > bound:
                text = (
                    f"{off:+.2%}, bound {bound:.0%}"
                    if is_ratio
                    else f"{off * 1e3:+.2f} ms, bound {bound * 1e3:g} ms"
                )
                yield f"{name} against what was {whose}: {text}"


def lapses(schedule: Mapping[str, Any]) -> Iterator[str]:
    """The rates that are not as planned."""
    for name in ("sent_req_per_s", "received_req_per_s"):
        off = schedule[name] / schedule["planned_req_per_s"] - 1
        if abs(off) > SCHEDULE_RATIO:
            yield f"{name}: {off:+.2%} of the planned rate, bound {SCHEDULE_RATIO:.0%}"


def error(values: Mapping[str, Any], whose: str, *, is_ratio: bool) -> float:
    measured, known = values["measured"], values[whose]
    if not is_ratio:
        return measured - known
    if known:
        return measured / known - 1
    return math.inf if measured else 0.0  # a server that lags writes several chunks at once


COLUMNS = {
    "TTFT p50, ms": "ttft_s.p50",
    "TTFT p95, ms": "ttft_s.p95",
    "E2E p50, ms": "e2e_s.p50",
    "TPOT p50, %": "tpot_s.p50",
    "ITL mean, %": "itl_s.mean",
    "ICL p50, %": "icl_s.p50",
    "tok/s, %": "system_tok_per_s",
    "req/s, %": "req_per_s",
}


def table(load: Load, lanes: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A line a lane: errors to the schedule and, in brackets, to what was written."""
    bounds = f"bounds {load.bounds.latency_s * 1e3:g} ms, {load.bounds.ratio:.0%}"
    yield f"\n{load.name}: {load.requests} requests a lane, {bounds}"
    yield f"{'':26}" + "".join(f"{title:>16}" for title in COLUMNS) + "   ok + failed"
    for name, found in lanes.items():
        cells = (cell(found["figures"].get(column), column) for column in COLUMNS.values())
        counts = f"{found['requests']['ok']} + {found['requests']['failed']}"
        yield f"{name:26}" + "".join(f"{text:>16}" for text in cells) + f"{counts:>14}"
        if schedule := found["open_loop"]:
            delay = ", ".join(f"{key} {value * 1e3:.2f} ms" for key, value in schedule["delay_s"].items())
            off = schedule["received_req_per_s"] / schedule["planned_req_per_s"] - 1
            yield f"  planned {schedule['planned_req_per_s']:.2f} req/s, received {off:+.3%}; delay {delay}"


def cell(values: Mapping[str, Any] | None, column: str) -> str:
    if values is None:
        return "–"
    is_ratio = column.partition(".")[0] not in LATENCIES
    scale = 100 if is_ratio else 1e3
    written = f"({error(values, 'written', is_ratio=is_ratio) * scale:+.2f})"
    if values["scheduled"] is None:
        return written
    return f"{error(values, 'scheduled', is_ratio=is_ratio) * scale:+.2f} {written}"


if __name__ == "__main__":
    sys.exit(main())
