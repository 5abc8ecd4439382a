"""Break LMDyno on purpose: 100 times kill -9 in mid-work, 10,000 malformed inputs.

    python -m benchmarks.chaos [--only KIND …] [--kills 100] [--inputs 10000] [--seed 1] [--out FILE.json]

Prints the table of `docs/robustness.md`. The goal is 0 in its last columns. Kinds are those of
`benchmarks/chaos_kills.py` and `benchmarks/chaos_inputs.py`; `--only` names some of them, so that a run can
be taken in parts. Kinds `dashboard` and `tab` start real dashboards.
"""

import argparse
import json
import logging
import statistics
import sys
import warnings
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import chaos_inputs, chaos_kills  # noqa: E402


def _scaled(shares: dict[str, int], total: int) -> dict[str, int]:
    return {kind: round(share * total / sum(shares.values())) for kind, share in shares.items()}


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _kills(only: list[str], total: int, seed: int) -> dict[str, Any]:
    _print("| killed | times | settled, median (longest) | shown tokens | lost | orphans | exceptions |")
    _print("|---|---|---|---|---|---|---|")
    figures = {}
    for kind, count in _scaled(chaos_kills.SHARES, total).items():
        if only and kind not in only:
            continue
        outcome = chaos_kills.run(kind, count, seed)
        times = outcome.settled_s or [float("nan")]
        _print(
            f"| {kind} | {outcome.kills} | {statistics.median(times):.1f} s ({max(times):.1f} s) "
            f"| {outcome.shown_tokens:,} | {outcome.lost_tokens} | {outcome.orphans} "
            f"| {len(outcome.exceptions)} |"
        )
        figures[kind] = asdict(outcome) | {"codes": sorted(outcome.codes)}
    return figures


def _inputs(only: list[str], total: int, seed: int) -> dict[str, Any]:
    _print("| malformed | inputs | taken | refused with a message | lost characters | foreign | exceptions |")
    _print("|---|---|---|---|---|---|---|")
    figures = {}
    for kind, count in _scaled(chaos_inputs.SHARES, total).items():
        if only and kind not in only:
            continue
        outcome = chaos_inputs.run(kind, count, seed)
        _print(
            f"| {kind} | {outcome.inputs:,} | {outcome.taken:,} | {outcome.refused.total():,} "
            f"| {outcome.lost_chars} | {outcome.foreign} | {len(outcome.exceptions)} |"
        )
        figures[kind] = asdict(replace(outcome, refused=Counter())) | {"refused": dict(outcome.refused)}
    return figures


def main() -> None:
    kinds = [*chaos_kills.SHARES, *chaos_inputs.SHARES]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=kinds, default=[])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write all that was found as JSON")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    found: dict[str, Any] = {}
    if not options.only or set(options.only) & set(chaos_inputs.SHARES):
        found["inputs"] = _inputs(options.only, options.inputs, options.seed)
    if not options.only or set(options.only) & set(chaos_kills.SHARES):
        found["kills"] = _kills(options.only, options.kills, options.seed)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1), "utf-8")
    problems = [text for part in found.values() for kind in part.values() for text in kind["exceptions"]]
    for text in problems[:20]:
        _print(text)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
