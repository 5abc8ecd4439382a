"""An evaluation session: lanes, prompts and their answers, what participants were shown, and their votes.

Facts only. Who is better is computed from them (`core.sessions`). Lanes and prompts are meant by their places
in the plan throughout.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from core.domain.conversation import Sampling, StoredImage
from core.domain.specs import LaneSpec
from core.domain.turns import ErrorInfo, Machine, RequestRecord, new_id, utc_now
from core.errors import InputError
from core.i18n import N_, N_plural

LEAST_LANES, MOST_LANES = 2, 6
MOST_PROMPTS = 500
MOST_RANKED = 4
"""Answers that are ranked at once; more can't be held in mind."""


class VotingMode(StrEnum):
    """The way in which participants vote on an item."""

    PAIRWISE = "pairwise"
    """Chooses between two answers."""
    RANKING = "ranking"
    """Puts up to four answers in order."""


class Display(StrEnum):
    """The way in which answers appear to voters; neither way reveals a lane's speed."""

    AT_ONCE = "at-once"
    REPLAYED = "replayed"
    """All at the same pace."""


class SessionState(StrEnum):
    """The state of a session."""

    DRAFT = "draft"
    """Answers are being made, nobody can vote."""
    OPEN = "open"
    CLOSED = "closed"
    """Voting has ended; everybody who took part may see the results."""


class ControlKind(StrEnum):
    """The content of a control item, shown instead of answers of different lanes."""

    TWO_SAMPLES = "two-samples"
    """Two answers of one lane to the same prompt."""
    IDENTICAL = "identical"
    """The same text on both sides."""


class Verdict(StrEnum):
    """The possible outcomes of a vote."""

    PREFERRED = "preferred"
    """The answers in the vote's order."""
    TIE = "tie"
    ALL_BAD = "all-bad"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPrompt:
    """One prompt with the groups that results are shown by."""

    text: str
    category: str = ""
    language: str = ""
    """A BCP 47 tag, such as `en` or `zh`."""
    images: tuple[StoredImage, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptSet:
    """Prompts under a name, as they were at one time."""

    name: str
    prompts: tuple[SessionPrompt, ...]
    version: str = ""
    """Computed from the prompts (`core.sessions.items`): the same prompts have the same version."""
    created_at: datetime = field(default_factory=utc_now)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionPlan:
    """A session's prompts, lanes and rules. Raises InputError for values that can't be run."""

    title: str
    purpose: str = ""
    lanes: tuple[LaneSpec, ...]
    prompts: PromptSet
    sampling: Sampling
    system_prompt: str = ""
    mode: VotingMode = VotingMode.PAIRWISE
    display: Display = Display.AT_ONCE
    replay_chars_per_s: int = 200
    invited: tuple[str, ...] = ()
    """Names, e-mail addresses and domains (`@example.com`) of those who may take part; () is everybody with
    the link."""
    guests: bool = False
    """Whoever has the link may take part under a nickname, although the dashboard has a login."""
    votes_per_person: int = 30
    control_ratio: float = 0.1
    """Share of control items among those a participant gets."""
    deploy_votes: int = 0
    """So many items are shown again after the blind votes, with lanes and figures: which would you deploy?"""
    results_hidden: bool = True
    """Voters see no results before the session is closed."""

    def __post_init__(self) -> None:
        if not self.title.strip():
            raise InputError(
                N_("The session has no title."), hint=N_("Enter a title that says what it compares.")
            )
        if not LEAST_LANES <= len(self.lanes) <= MOST_LANES:
            raise InputError(
                N_plural("{n} lane is selected.", "{n} lanes are selected.", len(self.lanes)),
                hint=N_("Choose {least} to {most} lanes.", least=LEAST_LANES, most=MOST_LANES),
            )
        if len({lane.name for lane in self.lanes}) < len(self.lanes):
            raise InputError(N_("A lane is selected twice."), hint=N_("Choose different lanes."))
        if not 1 <= len(self.prompts.prompts) <= MOST_PROMPTS:
            raise InputError(
                N_plural("The set has {n} prompt.", "The set has {n} prompts.", len(self.prompts.prompts)),
                hint=N_("Use 1 to {most} prompts.", most=MOST_PROMPTS),
            )
        if not 1 <= self.votes_per_person <= 1000 or not 0 <= self.control_ratio <= 0.5:
            raise InputError(
                N_("The number of votes per person or the share of control pairs is out of range."),
                hint=N_("Use 1 to 1,000 votes, and at most half of them as control pairs."),
            )


@dataclass(frozen=True, slots=True)
class Candidate:
    """One answer that an item may show."""

    lane: int
    sample: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionItem:
    """One item to vote on: answers to one prompt."""

    prompt: int
    candidates: tuple[Candidate, ...]
    control: ControlKind | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionAnswer:
    """One lane's answer to one prompt, with everything that was measured."""

    prompt: int
    lane: int
    sample: int
    record: RequestRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session without its answers and votes."""

    plan: SessionPlan
    state: SessionState = SessionState.DRAFT
    items: tuple[SessionItem, ...] = ()
    """Fixed when voting opens; a vote names an item by its place."""
    identical_pairs: int = 0
    """Pairs of lanes and prompts that nobody votes on, since both lanes gave the same answer."""
    machine: Machine | None = None
    owner: str | None = None
    """Who made it; None where nobody signs in."""
    imported: bool = False
    link: str = ""
    """The secret in the voting link."""
    id: str = field(default_factory=new_id)
    created_at: datetime = field(default_factory=utc_now)
    opened_at: datetime | None = None
    closed_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Participant:
    """Somebody who votes in a session."""

    session_id: str
    name: str
    code: str
    """Lets the same person go on elsewhere; a secret of theirs."""
    seat: int
    """Place in the order of joining; it decides what they are shown."""
    user: str | None = None
    """Who is signed in; None for a nickname."""
    id: str = field(default_factory=new_id)
    joined_at: datetime = field(default_factory=utc_now)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """One participant's vote on one item."""

    participant_id: str
    item: int
    shown: tuple[int, ...]
    """Places of the item's candidates from left to right."""
    verdict: Verdict
    order: tuple[int, ...] = ()
    """Places of the item's candidates, the best first; () without a preference."""
    reasons: tuple[str, ...] = ()
    comment: str = ""
    took_s: float | None = None
    """From showing the item to the vote."""
    given_at: datetime = field(default_factory=utc_now)
    deploy: Verdict | None = None
    """The second vote, given with lanes and figures in view; None if there was none."""
    deploy_order: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One model's judgement of one item, in one order of the answers."""

    judge: str
    """The lane that judged."""
    item: int
    turned: bool
    """The candidates were shown in the opposite order."""
    verdict: Verdict | None
    """None if its answer says nothing usable."""
    order: tuple[int, ...] = ()
    text: str = ""
    error: ErrorInfo | None = None
    given_at: datetime = field(default_factory=utc_now)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecord:
    """A whole session, as it is exported and imported."""

    session: Session
    answers: tuple[SessionAnswer, ...] = ()
    participants: tuple[Participant, ...] = ()
    votes: tuple[Vote, ...] = ()
    judgements: tuple[Judgement, ...] = ()
    schema_version: int = 1


AnswerTexts = Mapping[tuple[int, Candidate], str]
"""The texts of the answers that can be voted on, by prompt and candidate."""
