"""What TurboMind's start-up log says about memory.

Pure functions of text. The lines are those of LMDeploy 0.18 (`src/turbomind/turbomind.cc`, `memory/slab.h`);
the first is written at TurboMind's level INFO, the second at WARN, and their "MB" are MiB:

    Object cache budget: 26214.40 MB from free 65536.00 MB and ratio 0.400
    slab_size 33554432, object_size 4194304, object_count 8, ratio 1
"""

import re
from dataclasses import dataclass

from core.memory.kv_cache import BLOCK_TOKENS, PAGE_BYTES

_MIB = 2**20
_BUDGET = re.compile(
    r"Object cache budget: ([\d.]+) MB from (?:free|cacheable) ([\d.]+) MB and ratio ([\d.]+)"
)
_SLAB = re.compile(r"slab_size (\d+), object_size (\d+), object_count (\d+), ratio")
_WEIGHTS_LOADED = re.compile(r"Loading[^|\r\n]*?100%\||Object cache budget: ")


@dataclass(frozen=True, slots=True, kw_only=True)
class KvLog:
    """The KV cache by the engine's own words, on each GPU that it spans."""

    reserved_bytes: int
    free_bytes: int
    """Free on the GPU when the cache was cut: after the weights were loaded."""
    ratio: float
    block_bytes: int | None = None
    slab_bytes: int | None = None
    blocks_per_slab: int | None = None

    @property
    def tokens(self) -> int | None:
        """Tokens that fit; None unless the log has exactly one layout."""
        if not self.slab_bytes or self.blocks_per_slab is None:
            return None
        slabs = self.reserved_bytes // PAGE_BYTES * PAGE_BYTES // self.slab_bytes
        return slabs * self.blocks_per_slab * BLOCK_TOKENS


def read_kv_log(log: str) -> KvLog | None:
    """The KV cache of the engine that wrote this log; None if its log doesn't tell."""
    budget = _BUDGET.search(log)
    if budget is None:
        return None
    reserved, free = (int(float(size) * _MIB) for size in budget.group(1, 2))
    facts = KvLog(reserved_bytes=reserved, free_bytes=free, ratio=float(budget[3]))
    layouts = {found.groups() for found in _SLAB.finditer(log)}
    if len(layouts) != 1:
        return facts
    slab, block, count = map(int, layouts.pop())
    return KvLog(
        reserved_bytes=reserved,
        free_bytes=free,
        ratio=facts.ratio,
        block_bytes=block,
        slab_bytes=slab,
        blocks_per_slab=count,
    )


def weights_are_loaded(log: str) -> bool:
    """Whether a starting engine has told that its weights are in memory."""
    return _WEIGHTS_LOADED.search(log) is not None


def kv_is_reserved(log: str) -> bool:
    return _SLAB.search(log) is not None
