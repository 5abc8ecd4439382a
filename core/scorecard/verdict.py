"""The verdict of a scorecard: one or two sentences made from its figures.

A sentence says that a lane is faster or slower only if the 95 % interval, as it is printed, leaves out 1.
"""

from collections.abc import Iterator

from core import units
from core.bench.statistics import Ratio
from core.domain.specs import EngineKind, Weights
from core.i18n import N_, Text
from core.scorecard.card import Row, Scorecard
from core.scorecard.speed import LaneSpeed, decode_ratio

_MOST_SENTENCES = 2
_TENFOLD = 10


def verdict(card: Scorecard) -> tuple[Text, ...]:
    """One or two sentences; none before two lanes were measured."""
    speeds = [row.speed for row in card.rows if row.speed]
    if len(speeds) < 2:
        return ()
    sentences = [*_claims(card), *_open_questions(card)]
    if not sentences:
        return (_NOT_COMPARABLE,)
    return tuple(sentences[:_MOST_SENTENCES])


def is_claim(ratio: Ratio | None) -> bool:
    """Whether the interval supports a difference, and still does so when it is printed."""
    if ratio is None or ratio.interval is None or not ratio.is_clear:
        return False
    low, high = (float(ratio_number(edge)) for edge in (ratio.interval.low, ratio.interval.high))
    return not low <= 1 <= high


def ratio_number(value: float) -> str:
    """`0.764` → "0.76", `12.13` → "12.1"."""
    return f"{value:.1f}" if value >= _TENFOLD else f"{value:.2f}"


def interval_text(ratio: Ratio) -> str:
    """`11.8–12.4`; unknown where there is none."""
    if ratio.interval is None:
        return units.UNKNOWN
    return f"{ratio_number(ratio.interval.low)}–{ratio_number(ratio.interval.high)}"


_NOT_COMPARABLE = N_(
    "The lanes were measured with different prompts or loads, so they can't be compared. Measure them in "
    "one run."
)


def _claims(card: Scorecard) -> Iterator[Text]:
    """The lane that is furthest from the baseline first; then what 4-bit weights bring beside TurboMind."""
    differing = [row for row in card.rows if is_claim(row.ratios.decode)]
    differing.sort(key=lambda row: row.ratios.decode.value if row.ratios.decode else 0.0, reverse=True)
    decodes = [_decodes(card, row) for row in differing]
    yield from decodes[:1]
    for row in card.rows:
        plain = _in_16_bits(card, row)
        if plain is not None and plain.name != card.baseline:
            yield from _four_bit_weights(row, plain)
    yield from decodes[1:]


def _decodes(card: Scorecard, row: Row) -> Text:
    """Return how fast the lane is by the baseline; with its weights if they are the baseline's in 4 bits."""
    plain = _in_16_bits(card, row)
    if plain is not None and plain.name == card.baseline:
        with_weights = next(_four_bit_weights(row, plain), None)
        if with_weights is not None:
            return with_weights
    ratio = row.ratios.decode
    assert ratio is not None
    return N_(
        "{lane} decodes {ratio} times as fast as {baseline} ({interval}, n = {n}).",
        lane=row.name,
        ratio=ratio_number(ratio.value),
        baseline=card.baseline,
        interval=interval_text(ratio),
        n=ratio.n,
    )


def _four_bit_weights(row: Row, plain: Row) -> Iterator[Text]:
    """A W4A16 lane beside the same model in 16 bits on TurboMind; nothing that can't be claimed."""
    if row.speed is None or plain.speed is None:
        return
    share = _weights_ratio(row.speed, plain.speed)
    ratio = decode_ratio(row.speed, plain.speed)
    if share is None or ratio is None or not is_claim(ratio):
        return
    yield N_(
        "{lane}'s weights take {share} of the space of {other}'s, and it decodes {ratio} times as fast "
        "({interval}, n = {n}).",
        lane=row.name,
        share=units.share(share),
        other=plain.name,
        ratio=ratio_number(ratio.value),
        interval=interval_text(ratio),
        n=ratio.n,
    )


def _in_16_bits(card: Scorecard, row: Row) -> Row | None:
    """The TurboMind lane with the weights that this W4A16 lane's were made of."""
    lane = row.now.lane
    if lane.weights is not Weights.AWQ:
        return None
    return next(
        (
            other
            for other in card.rows
            if other.now.lane.kind is EngineKind.TURBOMIND and other.now.lane.model == lane.model
        ),
        None,
    )


def _weights_ratio(lane: LaneSpeed, other: LaneSpeed) -> float | None:
    if lane.weight_bytes is None or not other.weight_bytes:
        return None
    return lane.weight_bytes / other.weight_bytes


def _open_questions(card: Scorecard) -> Iterator[Text]:
    """Lanes whose difference the measurement doesn't show."""
    for row in card.rows:
        ratio = row.ratios.decode
        if ratio is None or is_claim(ratio):
            continue
        values = {"lane": row.name, "baseline": card.baseline, "n": ratio.n}
        if ratio.interval is None:
            yield N_(
                "{lane} and {baseline} are not decided: with n = {n} there is no interval. Measure more "
                "requests.",
                **values,
            )
        else:
            yield N_(
                "{lane} and {baseline} show no clear difference in decode speed ({interval}, n = {n}).",
                interval=interval_text(ratio),
                **values,
            )
