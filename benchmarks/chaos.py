"""Break LMDyno on purpose: 100 times kill -9 in mid-work, 10,000 malformed inputs.

    python -m benchmarks.chaos [--only KIND …] [--kills 100] [--inputs 10000] [--seed 1] [--out FILE.json]

Prints the tables of `docs/robustness.md` as they grow, and writes FILE after each kind. The goal is 0 in the
last columns; anything else makes the exit status 1. Kinds are those of `benchmarks/chaos_kills.py` and
`benchmarks/chaos_inputs.py`; `--only` names some of them. Each kind runs in a process of its own, an attempt
that hangs is ended and counted, and Ctrl-C ends everything that was started.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import chaos_inputs, chaos_kills  # noqa: E402
from benchmarks.chaos_bounded import attempts, end_all  # noqa: E402
from core import __version__  # noqa: E402

_GOAL_ZERO = ("lost_tokens", "lost_chars", "orphans", "foreign", "exceptions")


def _scaled(shares: dict[str, int], total: int) -> dict[str, int]:
    return {kind: round(share * total / sum(shares.values())) for kind, share in shares.items()}


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _add(total: dict[str, Any], part: Mapping[str, Any]) -> None:
    for name, value in part.items():
        if isinstance(value, dict):
            counts = total.setdefault(name, {})
            for key, count in value.items():
                counts[key] = counts.get(key, 0) + count
        else:
            total[name] = total.get(name, type(value)()) + value


def _count(value: int | list[str]) -> int:
    return len(value) if isinstance(value, list) else value


def _kills_row(kind: str, figures: dict[str, Any]) -> str:
    times = figures.get("settled_s") or [float("nan")]
    shown, foreign = figures.get("shown_tokens", 0), len(figures.get("foreign", []))
    lost = f"{shown:,} | {figures.get('lost_tokens', 0)}" if shown else "– | –"
    return (
        f"| {kind} | {figures.get('kills', 0)} | {statistics.median(times):.1f} s ({max(times):.1f} s) "
        f"| {lost} | {figures.get('orphans', 0)} | {foreign if kind in chaos_kills.IN_A_BROWSER else '–'} "
        f"| {len(figures.get('exceptions', []))} |"
    )


def _inputs_row(kind: str, figures: dict[str, Any]) -> str:
    lost = figures.get("lost_chars", 0) if kind == "streams" else "–"
    foreign = len(figures.get("foreign", [])) if kind == "Markdown" else "–"
    return (
        f"| {kind} | {figures.get('inputs', 0):,} | {figures.get('taken', 0):,} "
        f"| {sum(figures.get('refused', {}).values()):,} | {lost} | {foreign} "
        f"| {len(figures.get('exceptions', []))} |"
    )


_TABLES = {
    "inputs": (
        chaos_inputs.SHARES,
        _inputs_row,
        "| malformed | inputs | taken | refused with a message | lost characters | foreign requests "
        "| exceptions |",
    ),
    "kills": (
        chaos_kills.SHARES,
        _kills_row,
        "| killed | times | settled, median (longest) | shown tokens | lost | orphans | foreign requests "
        "| exceptions |",
    ),
}


def _load() -> list[float]:
    return [round(load, 2) for load in os.getloadavg()]


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()


def _heading(options: argparse.Namespace) -> dict[str, Any]:
    changed = " with changes" if _git("status", "--porcelain", "--untracked-files=no") else ""
    return {
        "command": " ".join(["python -m benchmarks.chaos", *sys.argv[1:]]),
        "lmdyno": __version__,
        "commit": f"{_git('rev-parse', '--short', 'HEAD') or 'unknown'}{changed}",
        "taken": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "seed": options.seed,
        "load_average_at_start": _load(),
    }


def _take(found: dict[str, Any], options: argparse.Namespace, folder: Path) -> None:
    """Fill `found` and the file as it goes."""
    for part, (shares, row, head) in _TABLES.items():
        counts = _scaled(shares, options.inputs if part == "inputs" else options.kills)
        kinds = [kind for kind in counts if not options.only or kind in options.only]
        if not kinds:
            continue
        _print(f"\n{head}\n{'|---' * (head.count('|') - 1)}|")
        for kind in kinds:
            began_s = time.monotonic()
            figures: dict[str, Any] = found.setdefault(part, {}).setdefault(kind, {})
            for outcome in attempts(kind, counts[kind], options.seed, folder):
                _add(figures, outcome)
            figures["seconds"] = round(time.monotonic() - began_s, 1)
            _print(row(kind, figures))
            _write(found, options.out)


def _write(found: dict[str, Any], out: Path | None) -> None:
    if out:
        out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")


def _end(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main() -> None:
    kinds = [*chaos_inputs.SHARES, *chaos_kills.SHARES]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=kinds, default=[], metavar="KIND", help=", ".join(kinds))
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write all that was found as JSON, after each kind")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _end)
    found = _heading(options)
    _print("\n".join(f"{name}: {value}" for name, value in found.items()))
    began_s, status = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="lmdyno-chaos-", ignore_cleanup_errors=True) as name:
        try:
            _take(found, options, Path(name))
        except KeyboardInterrupt:
            found["stopped"] = True
            status = 130
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            end_all(Path(name))
    found |= {"seconds": round(time.monotonic() - began_s), "load_average_at_end": _load()}
    _write(found, options.out)
    figures = [(kind, of) for part in _TABLES for kind, of in found.get(part, {}).items()]
    for kind, of in figures:
        for text in [*of.get("foreign", []), *of.get("exceptions", [])][:10]:
            _print(f"\n{kind}: {text}")
    sums = {name: sum(_count(of.get(name, 0)) for _, of in figures) for name in _GOAL_ZERO}
    _print(f"\n{found['seconds']} s; load average at the end {found['load_average_at_end']}; {sums}")
    if found.get("stopped"):
        _print("Stopped: not all was taken.")
    sys.exit(status or int(any(sums.values())))


if __name__ == "__main__":
    main()
