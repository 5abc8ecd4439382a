"""A share with its 95 % interval, and whether it can be chance."""

from dataclasses import dataclass
from math import comb, sqrt
from statistics import NormalDist

from core.bench.statistics import CONFIDENCE, Interval

_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
_EXACT_UP_TO = 1000


@dataclass(frozen=True, slots=True)
class Share:
    """So many of so many."""

    count: int
    total: int

    @property
    def ratio(self) -> float | None:
        return self.count / self.total if self.total else None

    @property
    def interval(self) -> Interval | None:
        """Wilson's score interval (1927); it keeps within 0 and 1 for any total. None for a total of 0."""
        if not self.total:
            return None
        share, z2 = self.count / self.total, _Z * _Z
        centre = (share + z2 / (2 * self.total)) / (1 + z2 / self.total)
        spread = sqrt(share * (1 - share) / self.total + z2 / (4 * self.total * self.total))
        half = _Z / (1 + z2 / self.total) * spread
        return Interval(max(0.0, centre - half), min(1.0, centre + half))

    @property
    def chance(self) -> float | None:
        """How likely a fair coin is to come out at least as unevenly; None for a total of 0."""
        if not self.total:
            return None
        fewer = min(self.count, self.total - self.count)
        if self.total > _EXACT_UP_TO:
            deviation = (self.total / 2 - fewer - 0.5) / sqrt(self.total / 4)
            return min(1.0, 2 * NormalDist().cdf(-deviation))
        ways = sum(comb(self.total, heads) for heads in range(fewer + 1))
        return min(1.0, float(2 * ways / 2**self.total))
