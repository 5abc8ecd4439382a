"""The plan of a sweep: one model, loaded again and again with another KV cache each time."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product

from core.domain.specs import EngineKind, EngineSettings, LaneSpec, ModelSpec, Weights
from core.domain.turns import new_id
from core.errors import InputError
from core.i18n import N_
from core.memory.kv_cache import KV_BITS

LANE = "sweep"
"""The name under which every engine of a sweep runs."""
DEFAULT_RATIOS = (0.8, 0.6, 0.4, 0.2, 0.05)
_MOST_POINTS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPoint:
    """One start of the engine."""

    ratio: float
    kv_bits: int = 16
    awq: bool = False

    @property
    def label(self) -> str:
        """`0.4 · KV 8-bit · AWQ`."""
        return f"{self.ratio:g} · KV {self.kv_bits}-bit" + (" · AWQ" if self.awq else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPlan:
    """All points of a sweep, in the order in which they are measured, and what they share."""

    model: ModelSpec
    points: tuple[SweepPoint, ...]
    gpu: int = 0
    session_len: int = 4096
    max_batch_size: int = 64
    max_tokens: int = 64
    """Tokens of the request that is sent at each point."""
    python: str | None = None
    """The engines' own Python interpreter; None is the one that runs LMDyno."""
    id: str = field(default_factory=new_id)

    def __post_init__(self) -> None:
        if not 1 <= len(self.points) <= _MOST_POINTS:
            raise InputError(
                N_("A sweep can't have {n} points.", n=len(self.points)),
                hint=N_("Choose 1 to {most}. Each point takes about 30 s.", most=_MOST_POINTS),
            )
        for point in self.points:
            if not 0 < point.ratio < 1:
                raise InputError(
                    N_("{value} is not a valid KV cache ratio.", value=f"{point.ratio:g}"),
                    hint=N_("Choose ratios greater than 0 and less than 1."),
                )
            if point.kv_bits not in KV_BITS:
                raise InputError(
                    N_("The KV cache can't have {bits} bits.", bits=point.kv_bits),
                    hint=N_("Choose 16, 8, or 4."),
                )

    def lane(self, point: SweepPoint) -> LaneSpec:
        """The lane that the point's engine serves."""
        return LaneSpec(
            name=LANE,
            kind=EngineKind.AWQ if point.awq else EngineKind.TURBOMIND,
            model=self.model,
            weights=Weights.AWQ if point.awq else Weights.CHECKPOINT,
            settings=EngineSettings(
                dtype="float16",
                devices=(self.gpu,),
                python=self.python,
                session_len=self.session_len,
                max_batch_size=self.max_batch_size,
                cache_max_entry_count=point.ratio,
                quant_policy=0 if point.kv_bits == 16 else point.kv_bits,
            ),
        )


def grid(
    ratios: Iterable[float] = DEFAULT_RATIOS, kv_bits: Iterable[int] = (16,), awq: Iterable[bool] = (False,)
) -> tuple[SweepPoint, ...]:
    """Every combination, the ratios of one form after each other."""
    return tuple(
        SweepPoint(ratio=ratio, kv_bits=bits, awq=form) for form, bits, ratio in product(awq, kv_bits, ratios)
    )
