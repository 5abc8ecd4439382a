"""The assignment of items to voters, and of sides: computed from the seat alone, so that it is the same on
any device.

Each participant gets a prompt once before any of them twice. Pairs of lanes rotate over the prompts, so that
everybody sees all pairs. Two neighbours in the order of joining get the same items with the sides swapped:
every item has two voters who can agree or not, and each lane is on the left as often as on the right, for
each person, prompt and pair. The order is shuffled, and control items are mixed in. For second votes, some of
the items that a participant voted on are shown again with lanes and figures.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from core.access.identity import Identity
from core.domain.sessions import ControlKind, Session, SessionItem, SessionPlan, Verdict, Vote
from core.errors import InputError
from core.i18n import N_


@dataclass(frozen=True, slots=True)
class Assigned:
    """One item as a participant sees it."""

    item: int
    """Its place in the session's items."""
    shown: tuple[int, ...]
    """Places of its candidates from left to right."""


def assigned_items(
    session_id: str, plan: SessionPlan, items: Sequence[SessionItem], seat: int
) -> tuple[Assigned, ...]:
    """Return what the participant in this seat votes on, in their order."""
    controls = _controls(items, seat, round(plan.votes_per_person * plan.control_ratio))
    number = max(1, plan.votes_per_person - len(controls))
    source = random.Random(f"{session_id}/{seat}")
    order: list[Assigned] = []
    for round_of_prompts in _rounds(items, seat, number):
        source.shuffle(round_of_prompts)
        order += round_of_prompts
    for control in controls:
        order.insert(source.randint(0, len(order)), control)
    return tuple(order)


def _rounds(items: Sequence[SessionItem], seat: int, left: int) -> list[list[Assigned]]:
    """As many real items as wanted and there are: rounds in which every prompt comes at most once."""
    by_prompt: dict[int, list[int]] = {}
    for place, item in enumerate(items):
        if item.control is None:
            by_prompt.setdefault(item.prompt, []).append(place)
    prompts = list(by_prompt)
    neighbours = seat // 2
    start = neighbours * left % len(prompts) if prompts else 0
    rounds: list[list[Assigned]] = []
    for number in range(max(map(len, by_prompt.values()), default=0)):
        current: list[Assigned] = []
        for step in range(len(prompts)):
            place = (start + step) % len(prompts)
            choices = by_prompt[prompts[place]]
            if number < len(choices) and left:
                pair = (place + neighbours + number) % len(choices)
                current.append(_shown(choices[pair], items, place // len(choices) + pair + seat + number))
                left -= 1
        rounds.append(current)
    return rounds


def _controls(items: Sequence[SessionItem], seat: int, count: int) -> list[Assigned]:
    """Control items, of both kinds in turn; neighbours get the same ones."""
    kinds = [[place for place, item in enumerate(items) if item.control is kind] for kind in ControlKind]
    filled = [places for places in kinds if places]
    chosen: list[Assigned] = []
    taken: set[int] = set()
    for number in range(count if filled else 0):
        places = filled[number % len(filled)]
        place = places[(number // len(filled) + seat // 2 * count) % len(places)]
        if place not in taken:
            taken.add(place)
            chosen.append(_shown(place, items, number + seat))
    return chosen


def _shown(item: int, items: Sequence[SessionItem], turn: int) -> Assigned:
    """The item with its candidates rotated; longer ones are also mirrored after each whole rotation."""
    size = len(items[item].candidates)
    places = [(place + turn) % size for place in range(size)]
    if size > 2 and turn // size % 2:
        places.reverse()
    return Assigned(item, tuple(places))


def is_invited(plan: SessionPlan, identity: Identity, name: str | None) -> bool:
    """Whether somebody is on the session's list, by login or by name; without a list everybody is.

    `name` is None before it is known; then nobody without a login is turned away.
    """
    if not plan.invited:
        return True
    entries = {entry.strip().casefold() for entry in plan.invited}
    if identity.owner is not None:
        address = identity.owner.casefold()
        domain = f"@{address.partition('@')[2]}" if "@" in address else None
        return address in entries or domain in entries
    return name is None or " ".join(name.split()).casefold() in entries


def require_invited(plan: SessionPlan, identity: Identity, name: str) -> None:
    """Raise InputError (`not-invited`) for somebody who is not on the session's list."""
    if not is_invited(plan, identity, name):
        raise InputError(
            N_("This session is for invited people, and this name is not on its list."),
            hint=N_("Enter it as it is on the invitation, or ask whoever sent you the link."),
            code="not-invited",
        )


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
