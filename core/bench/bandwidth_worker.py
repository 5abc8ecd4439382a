"""Copies a large buffer within the GPU's memory and prints how long that took, as one line of JSON.

`python -m core.bench.bandwidth_worker BUFFER_BYTES REPEATS`, a child process of
`core.bench.bandwidth`: torch and its CUDA context end with it. It sees one GPU, the first.
"""

import json
import sys
from typing import Any

COPIES = 8
"""In a repeat, so that the clock's grain and the launch of a copy don't count."""
_WARM_UP_REPEATS = 5
"""The memory clock of an idle GPU takes a moment to rise."""


def main(arguments: list[str]) -> int:
    buffer_bytes, repeats = map(int, arguments)
    try:
        import torch
    except ImportError as exc:
        return _refuse("no-torch", str(exc))
    if not torch.cuda.is_available():
        return _refuse("no-cuda", f"torch {torch.__version__} reaches no GPU")
    try:
        seconds = copy_times(torch, buffer_bytes, repeats)
    except torch.cuda.OutOfMemoryError as exc:
        return _refuse("gpu-full", str(exc).splitlines()[0])
    _say(
        {
            "gpu": torch.cuda.get_device_name(0),
            "torch": torch.__version__,
            # Each byte is read once and written once.
            "moved_bytes": 2 * COPIES * buffer_bytes,
            "seconds": seconds,
        }
    )
    return 0


def copy_times(torch: Any, buffer_bytes: int, repeats: int) -> list[float]:  # noqa: ANN401 - a module
    """Seconds of each repeat by the GPU's own clock."""
    source = torch.empty(buffer_bytes, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    times = []
    for number in range(_WARM_UP_REPEATS + repeats):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        for _ in range(COPIES):
            target.copy_(source)
        ended.record()
        ended.synchronize()
        if number >= _WARM_UP_REPEATS:
            times.append(began.elapsed_time(ended) / 1e3)
    return times


def _refuse(code: str, reason: str) -> int:
    _say({"error": code, "reason": reason})
    return 1


def _say(message: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
