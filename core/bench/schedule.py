"""When the requests of an open loop are due. A schedule knows nothing of how the engine keeps up with it."""

import random
from collections.abc import Iterator
from itertools import accumulate, count

from core.bench.plan import Arrivals


def arrivals(kind: Arrivals, rate_req_per_s: float, seed: int) -> Iterator[float]:
    """Seconds from the start of a pass to each request, without end; the first one is due at once.

    A Poisson process has independent, exponentially distributed gaps: in a short pass its own rate differs
    from `rate_req_per_s` by chance, by about 1/√n.
    """
    if kind is Arrivals.CONSTANT:
        return (number / rate_req_per_s for number in count())
    source = random.Random(seed)
    return accumulate((source.expovariate(rate_req_per_s) for _ in count()), initial=0.0)
