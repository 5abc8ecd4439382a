"""Votes and judgements as comparisons of two lanes each, separately for real items and controls."""

from collections.abc import Iterable, Sequence
from itertools import combinations

from core.domain.sessions import Judgement, SessionItem, Verdict, Vote
from core.sessions.analysis.comparisons import FIRST, SECOND, TIE, Comparison


def comparisons_of(
    item: SessionItem, verdict: Verdict | None, order: Sequence[int]
) -> tuple[Comparison, ...]:
    """What a vote on an item says of each two of its answers; nothing for one that was skipped.

    `order` has places of candidates, the best first. For real items lanes are compared, for controls the
    candidates themselves.
    """
    if verdict in (None, Verdict.SKIPPED):
        return ()
    rank = {place: number for number, place in enumerate(order)}
    compared = []
    for one, other in combinations(range(len(item.candidates)), 2):
        outcome = TIE if verdict is not Verdict.PREFERRED else FIRST if rank[one] < rank[other] else SECOND
        first, second = (
            (item.candidates[one].lane, item.candidates[other].lane) if item.control is None else (one, other)
        )
        compared.append(Comparison(item.prompt, first, second, outcome))
    return tuple(compared)


def of_votes(items: Sequence[SessionItem], votes: Iterable[Vote]) -> list[Comparison]:
    """All comparisons that the votes on real items say."""
    return [
        comparison
        for vote in votes
        if items[vote.item].control is None
        for comparison in comparisons_of(items[vote.item], vote.verdict, vote.order)
    ]


def of_judgements(items: Sequence[SessionItem], judgements: Iterable[Judgement]) -> list[Comparison]:
    return [
        comparison
        for judgement in judgements
        if items[judgement.item].control is None
        for comparison in comparisons_of(items[judgement.item], judgement.verdict, judgement.order)
    ]
