"""A quality run as a table and sentences, for a terminal."""

from collections.abc import Iterator

from rich.table import Table

from core import units
from core.bench.statistics import Interval
from core.i18n import _
from core.quality.fairness import flags
from core.quality.results import LaneQuality, Outcome, QualityResult
from core.quality.verdict import verdicts


def lane_table(result: QualityResult) -> Table:
    """One row a lane: right answers, agreement, likelihood of each text, speed and memory."""
    texts = [text.name for text in result.plan.texts]
    table = Table(
        _("lane"),
        _("correct"),
        _("95% interval"),
        _("same answers"),
        _("same tokens"),
        *(_("{text}, nats", text=name) for name in texts),
        _("decode p50"),
        _("memory"),
    )
    for lane in result.lanes:
        table.add_row(*_row(lane, texts))
    return table


def lines(result: QualityResult) -> Iterator[str]:
    """The verdicts with their reasons, then the differences between lanes."""
    for verdict in verdicts(result):
        yield f"{_(verdict.sentence)} {' '.join(_(reason) for reason in verdict.reasons)}".rstrip()
    for lane in result.lanes:
        for score in lane.facts.external:
            yield _(
                "{lane}, {program}: {task}, {metric} {value}",
                lane=lane.name,
                program=score.program,
                task=score.task,
                metric=score.metric,
                value=f"{score.value:.4f}",
            )
        if lane.facts.external_error is not None:
            yield _("{lane}: {problem}", lane=lane.name, problem=_(lane.facts.external_error.message))
    for flag in flags(result):
        yield _("Different: {what}", what=flag.text)


def _row(lane: LaneQuality, texts: list[str]) -> list[str]:
    tasks, agreement = lane.tasks, lane.agreement
    row = [
        lane.name,
        f"{tasks.outcomes[Outcome.RIGHT]}/{tasks.asked}" if tasks else units.UNKNOWN,
        _interval(tasks.interval if tasks else None),
        f"{agreement.identical}/{agreement.n}" if agreement else units.UNKNOWN,
        units.share(agreement.token_ratio if agreement else None),
    ]
    for name in texts:
        score = lane.text(name)
        value = units.nats(score.nats_per_token if score else None)
        apart = score.difference if score else None
        row.append(f"{value} ({units.nats_apart(apart.value)})" if apart else value)
    return [*row, units.tok_per_s(lane.decode_tok_per_s_p50), units.gib(lane.memory_bytes)]


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return units.UNKNOWN
    return f"{units.share(interval.low)} – {units.share(interval.high)}"
