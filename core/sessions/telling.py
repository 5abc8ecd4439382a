"""A session in words, for pages and reports alike: states and reasons, results as tables, and figures.

Lanes, scores and strengths as text; what the numbers leave open is said, not filled in. The figures of a lane
are medians over its answers.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from core import units
from core.bench.statistics import median_of_known
from core.domain.sessions import (
    ControlKind,
    Display,
    Session,
    SessionAnswer,
    SessionState,
    VotingMode,
)
from core.domain.turns import FinishReason, RequestRecord
from core.i18n import N_, Message, _, ngettext
from core.sessions.results import GroupScore, JudgeResult, SessionResults
from core.sessions.statistics import (
    LEAST_COMPARISONS,
    LEAST_PROMPTS,
    LaneStanding,
    PairStanding,
    Share,
    Standings,
)

Table = dict[str, list[str]]
"""Columns by their heads."""

STRENGTHS_NOTE = N_(
    "Rating: Bradley–Terry in Elo points, where 0 is the mean of all lanes and a difference of 100 points "
    "means 64% of the votes that prefer one of two. Intervals are simultaneous at 95%, by bootstrap "
    "over prompts."
)


class Reason(StrEnum):
    """A reason to prefer an answer, to tick beside a vote."""

    CORRECT = "correct"
    COMPLETE = "complete"
    CLEAR = "clear"
    INSTRUCTIONS = "instructions"
    STYLE = "style"
    SAFE = "safe"


REASON_NAMES: dict[str, Message] = {
    Reason.CORRECT: N_("More correct"),
    Reason.COMPLETE: N_("More complete"),
    Reason.CLEAR: N_("Clearer"),
    Reason.INSTRUCTIONS: N_("Follows the instructions better"),
    Reason.STYLE: N_("Better style"),
    Reason.SAFE: N_("Safer"),
}
STATE_NAMES = {
    SessionState.DRAFT: N_("being prepared"),
    SessionState.OPEN: N_("open"),
    SessionState.CLOSED: N_("closed"),
}
MODE_NAMES = {VotingMode.PAIRWISE: N_("Two answers"), VotingMode.RANKING: N_("Up to four in order")}
DISPLAY_NAMES = {Display.AT_ONCE: N_("At once"), Display.REPLAYED: N_("Replayed at one pace")}
CONTROL_NAMES = {
    ControlKind.TWO_SAMPLES: N_("Two answers from one lane"),
    ControlKind.IDENTICAL: N_("The same answer twice"),
}
LETTERS = "ABCD"
"""What answers are called while nobody may know whose they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneFigures:
    """One lane's speed, memory and energy; None where nothing tells them."""

    lane: int
    answers: int
    failed: int
    ttft_s: float | None
    decode_tok_per_s: float | None
    e2e_s: float | None
    output_tokens: float | None
    peak_memory_bytes: int | None
    """The engine's own GPU memory, or its host memory where it uses no GPU: the largest of all answers."""
    on_gpu: bool
    """Whether that is GPU memory."""
    energy_j_per_token: float | None


def lane_figures(session: Session, answers: Iterable[SessionAnswer]) -> tuple[LaneFigures, ...]:
    """Figures of all lanes, in the session's order."""
    by_lane: list[list[RequestRecord]] = [[] for _ in session.plan.lanes]
    for answer in answers:
        by_lane[answer.lane].append(answer.record)
    return tuple(_figures(lane, records) for lane, records in enumerate(by_lane))


def has_failed(record: RequestRecord) -> bool:
    return record.error is not None or record.finish_reason in (FinishReason.ERROR, FinishReason.CANCELLED)


def _figures(lane: int, records: Sequence[RequestRecord]) -> LaneFigures:
    good = [record for record in records if not has_failed(record)]
    windows = [record.window for record in good if record.window]
    gpu = [window.peak_gpu_bytes for window in windows if window.peak_gpu_bytes is not None]
    host = [window.peak_resident_bytes for window in windows if window.peak_resident_bytes is not None]
    return LaneFigures(
        lane=lane,
        answers=len(good),
        failed=len(records) - len(good),
        ttft_s=median_of_known(record.ttft_s for record in good),
        decode_tok_per_s=median_of_known(record.decode_tok_per_s for record in good),
        e2e_s=median_of_known(record.e2e_s for record in good),
        output_tokens=median_of_known(record.output_tokens for record in good),
        peak_memory_bytes=max(gpu or host, default=None),
        on_gpu=bool(gpu),
        energy_j_per_token=median_of_known(record.energy_j_per_token for record in good),
    )


def lane_names(session: Session) -> list[str]:
    return [lane.name for lane in session.plan.lanes]


def points_text(points: float | None) -> str:
    return units.UNKNOWN if points is None else f"{points:+.0f}"


def interval_text(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return units.UNKNOWN
    return _("{low} to {high}", low=f"{low:+.0f}", high=f"{high:+.0f}")


def share_text(share: Share) -> str:
    """`62% (31 of 50)`."""
    if share.ratio is None:
        return units.UNKNOWN
    return _(
        "{percent} ({count} of {total})",
        percent=units.share(share.ratio),
        count=share.count,
        total=share.total,
    )


def rank_text(standing: LaneStanding, standings: Standings) -> str:
    """`1`, `1–2`, or that it is not decided."""
    if not standings.is_ranked(standing.lane):
        return _("undecided")
    if standing.rank_low == standing.rank_high:
        return str(standing.rank_low)
    return f"{standing.rank_low}–{standing.rank_high}"


def headline(session: Session, standings: Standings) -> str:
    """Return what the votes say, in one sentence."""
    names = lane_names(session)
    first = [
        names[lane.lane] for lane in standings.lanes if standings.is_ranked(lane.lane) and lane.rank_high == 1
    ]
    if first:
        return _("{lane} is preferred to all others.", lane=first[0])
    decided = [pair for pair in standings.pairs if pair.better is not None]
    if not decided:
        return _("Undecided: no lane is clearly better than another.")
    last = decided[0]
    worse = last.second if last.better == last.first else last.first
    return ngettext(
        "Partly decided: {better} is preferred to {worse}.",
        "Partly decided in {n} pairs, such as {better} above {worse}.",
        len(decided),
        better=names[last.better if last.better is not None else 0],
        worse=names[worse],
    )


def turnout(results: SessionResults) -> list[str]:
    """Return how many people voted, how often, and how long a vote took."""
    facts = [
        ngettext("{n} person", "{n} people", results.participants),
        ngettext("{n} vote", "{n} votes", results.votes),
        _("{n} skipped", n=results.skipped),
    ]
    if results.all_bad.count:
        facts.append(_("all bad: {share}", share=share_text(results.all_bad)))
    if results.median_s is not None:
        facts.append(_("median time per vote: {time}", time=units.duration(results.median_s)))
    return facts


def standings_table(standings: Standings, labels: Sequence[str]) -> Table:
    """One row for each lane, the strongest first; `labels` are what lanes are called there."""
    ordered = sorted(
        standings.lanes, key=lambda lane: (lane.points is None, -(lane.points or 0.0), lane.lane)
    )
    return {
        _("Rank"): [rank_text(lane, standings) for lane in ordered],
        _("Lane"): [labels[lane.lane] for lane in ordered],
        _("Rating"): [points_text(lane.points) for lane in ordered],
        _("95% interval"): [interval_text(lane.low, lane.high) for lane in ordered],
        _("Score (ties half)"): [units.share(lane.score_ratio) for lane in ordered],
        _("Comparisons"): [str(lane.comparisons) for lane in ordered],
    }


def win_matrix(standings: Standings, labels: Sequence[str]) -> Table:
    """Return how often the row's lane was preferred to the column's, and how often they tied."""
    lanes = range(len(labels))
    wins = {(pair.first, pair.second): pair.first_wins for pair in standings.pairs} | {
        (pair.second, pair.first): pair.second_wins for pair in standings.pairs
    }
    ties = {(pair.first, pair.second): pair.ties for pair in standings.pairs}

    def cell(row: int, column: int) -> str:
        if row == column:
            return ""
        tied = ties[min(row, column), max(row, column)]
        return _("{wins} (ties {ties})", wins=wins[row, column], ties=tied)

    return {
        _("preferred to"): list(labels),
        **{labels[column]: [cell(row, column) for row in lanes] for column in lanes},
    }


def pairs_table(standings: Standings, labels: Sequence[str]) -> Table:
    """Return what each two lanes' votes say, and how many more would decide it."""
    return {
        _("Lanes"): [
            _("{first} and {second}", first=labels[p.first], second=labels[p.second]) for p in standings.pairs
        ],
        _("Difference"): [points_text(pair.difference) for pair in standings.pairs],
        _("95% interval"): [interval_text(pair.low, pair.high) for pair in standings.pairs],
        _("Decided"): [
            labels[pair.better] if pair.better is not None else _("undecided") for pair in standings.pairs
        ],
        _("Votes still needed"): [further_text(pair, standings) for pair in standings.pairs],
    }


def further_text(pair: PairStanding, standings: Standings) -> str:
    """About how many votes more would separate two lanes."""
    if pair.better is not None:
        return _("none")
    if standings.prompts < LEAST_PROMPTS:
        return _("at least {n} prompts", n=LEAST_PROMPTS)
    if (
        pair.comparisons == 0
        or min(standings.lanes[lane].comparisons for lane in (pair.first, pair.second)) < LEAST_COMPARISONS
    ):
        return _("at least {n} comparisons for each lane", n=LEAST_COMPARISONS)
    if pair.further_votes is None:
        return _("no visible difference")
    return _("about {n}", n=units.count(_rounded(pair.further_votes)))


def groups_table(scores: Sequence[GroupScore], labels: Sequence[str], head: str) -> Table:
    """Scores by category or language, a column for each lane."""
    groups = list(dict.fromkeys(score.group for score in scores))
    by_key = {(score.group, score.lane): score for score in scores}
    table: Table = {head: [group or _("none given") for group in groups]}
    for lane, label in enumerate(labels):
        table[label] = [_group_text(by_key[group, lane]) for group in groups]
    return table


def figures_table(figures: Sequence[LaneFigures], labels: Sequence[str]) -> Table:
    """Return what was measured while the answers were made."""
    return {
        _("Lane"): [labels[lane.lane] for lane in figures],
        _("Answers"): [str(lane.answers) for lane in figures],
        _("Failed"): [str(lane.failed) for lane in figures],
        "TTFT p50": [units.milliseconds(lane.ttft_s) for lane in figures],
        _("Decode speed p50"): [units.tok_per_s(lane.decode_tok_per_s) for lane in figures],
        _("Peak memory"): [units.gib(lane.peak_memory_bytes) for lane in figures],
        _("Energy per token p50"): [units.joules(lane.energy_j_per_token) for lane in figures],
        _("Output tokens p50"): [
            units.UNKNOWN if lane.output_tokens is None else f"{lane.output_tokens:.0f}" for lane in figures
        ],
    }


def checks(session: Session, results: SessionResults) -> list[str]:
    """Return how far to trust the session, a sentence each."""
    sentences = [
        _(
            "Left or right: {share} of the preferences went to the answer on the left. {judged}",
            share=share_text(results.left),
            judged=_chance_text(results.left.chance),
        )
    ]
    agreement = results.agreement
    sentences.append(
        _(
            "Agreement between participants: Krippendorff's alpha {alpha}, over {items} pairs of answers "
            "that several of them voted on (1 is full agreement, 0 is chance).",
            alpha=units.UNKNOWN if agreement.alpha is None else f"{agreement.alpha:.2f}",
            items=agreement.items,
        )
    )
    for control in results.controls:
        sentences.append(
            _(
                "Control pairs ({kind}): {share} of the votes preferred one of two answers that are equally "
                "good; of the real pairs {real}.",
                kind=_(CONTROL_NAMES[control.kind]),
                share=share_text(control.preferred),
                real=share_text(results.preferred),
            )
        )
        if control.chance is not None and control.chance < 0.05:
            sentences.append(
                _(
                    "First or second samples of a lane are favoured (p = {p}). Look for a flaw in how the "
                    "answers were generated.",
                    p=f"{control.chance:.3f}",
                )
            )
    if session.identical_pairs:
        sentences.append(
            ngettext(
                "In {n} case, two lanes gave the same answer to a prompt. These aren't voted on.",
                "In {n} cases, two lanes gave the same answer to a prompt. These aren't voted on.",
                session.identical_pairs,
            )
        )
    if results.deploy:
        sentences.append(
            _(
                "With speed, memory, and energy known, {share} of the second votes differ from the first.",
                share=share_text(results.deploy.changed),
            )
        )
    return sentences


def judge_lines(session: Session, result: JudgeResult) -> list[str]:
    """Return how far to trust a judge, a sentence each."""
    return [
        _(
            "{n} judgements, {unusable} without a usable verdict.",
            n=result.judgements,
            unusable=result.unusable,
        ),
        _("Same verdict in both orders: {share}.", share=share_text(result.consistent)),
        _(
            "Preferred the answer that was shown first: {share}. {judged}",
            share=share_text(result.first_shown),
            judged=_chance_text(result.first_shown.chance),
        ),
        _(
            "Agreement with the participants' majority, where both prefer one answer: {share}.",
            share=share_text(result.agreement),
        ),
        headline(session, result.standings),
    ]


def _chance_text(chance: float | None) -> str:
    if chance is None:
        return ""
    if chance < 0.05:
        return _("That is more than chance (p = {p}).", p=f"{chance:.3f}")
    return _("That can be chance (p = {p}).", p=f"{chance:.2f}")


def _group_text(score: GroupScore) -> str:
    if score.score_ratio is None:
        return units.UNKNOWN
    if score.low is None or score.high is None:
        return _("{score} (n = {n})", score=units.share(score.score_ratio), n=score.comparisons)
    return _(
        "{score}, {low} to {high} (n = {n})",
        score=units.share(score.score_ratio),
        low=units.share(score.low),
        high=units.share(score.high),
        n=score.comparisons,
    )


def _rounded(number: int) -> int:
    """To two figures, upwards: more would be made up."""
    step = int(10 ** max(0, len(str(number)) - 2))
    return -(-number // step) * step
