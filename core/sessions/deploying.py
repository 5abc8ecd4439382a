"""The second votes: some of the items that a participant voted on, shown again with lanes and figures."""

from collections.abc import Mapping, Sequence

from core.domain.sessions import Session, Verdict, Vote
from core.sessions.assignment import Assigned


def deploy_items(
    session: Session, done: Sequence[Assigned], votes: Mapping[int, Vote]
) -> tuple[Assigned, ...]:
    """As many real items as the session wants, spread over those that the participant did not skip."""
    real = [
        assigned
        for assigned in done
        if session.items[assigned.item].control is None
        and votes[assigned.item].verdict is not Verdict.SKIPPED
    ]
    count = min(session.plan.deploy_votes, len(real))
    return tuple(real[number * len(real) // count] for number in range(count))
