"""What a session asks, and what its participants vote on: prompt sets, items from the answers, and who gets
which item on which side.

Prompt sets are shipped, or brought as CSV, JSONL, text or pasted lines. A set has a version that is computed
from its prompts, so that two sessions with the same version asked the same. Images are named by file name, in
an upload or in the gallery, and stay in the image store.

Answers that failed are left out: they are that lane's result, counted apart. Two lanes that gave the same
text are no question of taste, so nobody votes on them as a pair; they are counted too, and some serve as
control items. Prompts are mixed by category, so that every part of the list holds all of them. Answers that
name a lane or a model are found, for the host to check before anybody votes.

The assignment is computed from the seat alone, so that it is the same on any device. Each participant gets a
prompt once before any of them twice. Pairs of lanes rotate over the prompts, so that everybody sees all
pairs. Two neighbours in the order of joining get the same items with the sides swapped: every item has two
voters who can agree or not, and each lane is on the left as often as on the right, for each person, prompt
and pair. The order is shuffled, and control items are mixed in. For second votes, some of the items that a
participant voted on are shown again with lanes and figures.
"""

import csv
import hashlib
import io
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations, zip_longest
from pathlib import PurePath

from core.access.identity import Identity
from core.codec import decode, encode
from core.domain.conversation import StoredImage
from core.domain.sessions import (
    MOST_PROMPTS,
    MOST_RANKED,
    AnswerTexts,
    Candidate,
    ControlKind,
    PromptSet,
    Session,
    SessionAnswer,
    SessionItem,
    SessionPlan,
    SessionPrompt,
    Verdict,
    Vote,
    VotingMode,
)
from core.domain.specs import LaneSpec
from core.domain.turns import FinishReason
from core.errors import InputError
from core.i18n import N_, Message, N_plural
from core.settings import PROJECT_ROOT

PROMPTS_DIR = PROJECT_ROOT / "assets" / "prompts"
SHIPPED = {
    "english": N_("English, seven categories"),
    "chinese": N_("Chinese, seven categories"),
    "vision": N_("Images of the gallery"),
}
"""The sets that come with LMDyno, with what to call them."""
UPLOAD_TYPES = ("csv", "jsonl", "txt", "png", "jpg", "jpeg", "webp")
MOST_CHARS = 20_000
_CJK = ("\u3400", "\u9fff")
_VERSION_BYTES = 5

ImageOf = Callable[[str], StoredImage]
"""The image with this file name; raises InputError if there is none."""

CONTROL_EVERY = 5
"""Every so many prompts a second answer of a lane is made, where sampling makes it differ."""
_FAMILY = re.compile(r"[A-Za-z]{4,}")
"""The start of a model's name that its relatives share, such as `Qwen` of `Qwen2.5-7B-Instruct`."""
_SHORTEST = 4
"""Shorter names are words of their own too often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """One prompt of a JSONL file."""

    prompt: str
    category: str = ""
    language: str = ""
    image: str = ""


def shipped_set(key: str, image_of: ImageOf) -> PromptSet:
    """A set that comes with LMDyno; `key` is one of `SHIPPED`."""
    lines = (PROMPTS_DIR / f"{key}.jsonl").read_text("utf-8").splitlines()
    return prompt_set(str(SHIPPED[key]), [_decoded(line, image_of) for line in lines])


def prompt_set(name: str, prompts: Iterable[SessionPrompt]) -> PromptSet:
    """A set with the version of its prompts. Raises InputError for one without prompts, or with too many."""
    kept = tuple(prompts)
    if not 1 <= len(kept) <= MOST_PROMPTS:
        raise InputError(
            N_plural("The set has {n} prompt.", "The set has {n} prompts.", len(kept)),
            hint=N_("Use 1 to {most} prompts.", most=MOST_PROMPTS),
        )
    for number, prompt in enumerate(kept, start=1):
        if not prompt.text.strip() or len(prompt.text) > MOST_CHARS:
            raise InputError(
                N_("Prompt {number} is empty or too long.", number=number),
                hint=N_("Prompts must have 1 to {most} characters.", most=MOST_CHARS),
            )
    if not name.strip():
        raise InputError(N_("The prompt set has no name."), hint=N_("Enter one."))
    digest = hashlib.blake2b(encode(kept), digest_size=_VERSION_BYTES).hexdigest()
    return PromptSet(name=name.strip(), prompts=kept, version=digest)


def pasted_prompts(text: str) -> tuple[SessionPrompt, ...]:
    """A prompt for each line that is not empty."""
    return tuple(
        SessionPrompt(text=line.strip(), language=guessed_language(line))
        for line in text.splitlines()
        if line.strip()
    )


def uploaded_prompts(files: Mapping[str, bytes], image_of: ImageOf) -> tuple[SessionPrompt, ...]:
    """The prompts of one CSV, JSONL or text file; `image_of` knows the images that came with it.

    CSV has a head line with `prompt` and, if wanted, `category`, `language` and `image`; a line of JSONL is
    an object with the same keys; a line of text is a prompt.
    """
    lists = [name for name in files if PurePath(name).suffix.lower() in (".csv", ".jsonl", ".txt")]
    if len(lists) != 1:
        raise InputError(
            N_plural("The upload has {n} prompt file.", "The upload has {n} prompt files.", len(lists)),
            hint=N_("Add one CSV, JSONL, or text file and the images that it names."),
        )
    name = lists[0]
    try:
        text = files[name].decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise InputError(
            N_("{name} is not a UTF-8 text file.", name=name), hint=N_("Save it as UTF-8, then add it again.")
        ) from exc
    match PurePath(name).suffix.lower():
        case ".csv":
            return tuple(_csv_prompts(name, text, image_of))
        case ".jsonl":
            return tuple(_jsonl_prompts(name, text, image_of))
        case _:
            return pasted_prompts(text)


def guessed_language(text: str) -> str:
    """`zh` for text with Chinese characters; "" for any other."""
    return "zh" if any(_CJK[0] <= letter <= _CJK[1] for letter in text) else ""


def no_image(name: str) -> StoredImage:
    """The `ImageOf` of prompts that come without images."""
    raise InputError(
        N_('There is no image "{name}".', name=name),
        hint=N_("Add the image together with the prompt file, under that name."),
    )


def _csv_prompts(name: str, text: str, image_of: ImageOf) -> Iterable[SessionPrompt]:
    rows = csv.DictReader(io.StringIO(text))
    if "prompt" not in (rows.fieldnames or ()):
        raise InputError(
            N_('{name} has no column "prompt".', name=name),
            hint=N_("Start the file with: prompt,category,language"),
        )
    for row in rows:
        if (row.get("prompt") or "").strip():
            line = _Line(
                **{key: (row.get(key) or "").strip() for key in ("prompt", "category", "language", "image")}
            )
            yield _located(name, rows.line_num, partial(_prompt, line, image_of))


def _jsonl_prompts(name: str, text: str, image_of: ImageOf) -> Iterable[SessionPrompt]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield _located(name, number, partial(_decoded, line, image_of))


def _located(name: str, number: int, read: Callable[[], SessionPrompt]) -> SessionPrompt:
    try:
        return read()
    except InputError as error:
        raise InputError(
            N_("{name}, line {number}: {problem}", name=name, number=number, problem=error.message),
            hint=error.hint or N_("An example line: {example}", example='{"prompt": "…", "category": "…"}'),
            code=error.code,
        ) from error


def _decoded(line: str, image_of: ImageOf) -> SessionPrompt:
    return _prompt(decode(_Line, line), image_of)


def _prompt(line: _Line, image_of: ImageOf) -> SessionPrompt:
    return SessionPrompt(
        text=line.prompt,
        category=line.category,
        language=line.language or guessed_language(line.prompt),
        images=(image_of(line.image),) if line.image else (),
    )


def set_label(prompts: PromptSet) -> Message:
    """The set's name with the start of its version."""
    return N_("{name}, version {version}", name=prompts.name, version=prompts.version)


@dataclass(frozen=True, slots=True)
class Ballot:
    """The items that a session votes on."""

    items: tuple[SessionItem, ...]
    """Real ones first, in the mixed order of prompts; then the controls."""
    identical_pairs: int


def usable_texts(answers: Iterable[SessionAnswer]) -> AnswerTexts:
    """The texts that can be voted on: of answers that came to an end and say something."""
    return {
        (answer.prompt, Candidate(answer.lane, answer.sample)): answer.record.text.strip()
        for answer in answers
        if answer.record.finish_reason in (FinishReason.STOP, FinishReason.LENGTH, None)
        and answer.record.error is None
        and answer.record.text.strip()
    }


def second_samples(plan: SessionPlan) -> tuple[tuple[int, int], ...]:
    """Prompt and lane of each answer to make twice; none for greedy sampling, which repeats itself."""
    if plan.sampling.greedy or not plan.control_ratio:
        return ()
    lanes = len(plan.lanes)
    chosen = mixed_prompts(plan)[::CONTROL_EVERY]
    return tuple((prompt, number % lanes) for number, prompt in enumerate(chosen))


def build_ballot(plan: SessionPlan, texts: AnswerTexts) -> Ballot:
    """The items of a session whose answers are made."""
    lanes = range(len(plan.lanes))
    real: list[SessionItem] = []
    identical: list[SessionItem] = []
    for prompt in mixed_prompts(plan):
        answered = [lane for lane in lanes if (prompt, Candidate(lane)) in texts]
        for one, other in combinations(answered, 2):
            pair = (Candidate(one), Candidate(other))
            if texts[prompt, pair[0]] == texts[prompt, pair[1]]:
                identical.append(SessionItem(prompt=prompt, candidates=pair, control=ControlKind.IDENTICAL))
            elif plan.mode is VotingMode.PAIRWISE:
                real.append(SessionItem(prompt=prompt, candidates=pair))
        if plan.mode is VotingMode.RANKING:
            real += _ranked(prompt, answered, texts)
    two_samples = [
        SessionItem(
            prompt=prompt,
            candidates=(Candidate(lane, 0), Candidate(lane, 1)),
            control=ControlKind.TWO_SAMPLES,
        )
        for prompt, lane in second_samples(plan)
        if _differ(texts, prompt, lane)
    ]
    controls = [*two_samples, *(identical or _repeated(real))] if plan.control_ratio else []
    return Ballot((*real, *controls), len(identical))


def mixed_prompts(plan: SessionPlan) -> list[int]:
    """The places of the prompts: the first of each category and language, then the second of each."""
    by_category: dict[tuple[str, str], list[int]] = {}
    for place, prompt in enumerate(plan.prompts.prompts):
        by_category.setdefault((prompt.category, prompt.language), []).append(place)
    rounds = zip_longest(*by_category.values())
    return [place for places in rounds for place in places if place is not None]


def _ranked(prompt: int, answered: list[int], texts: AnswerTexts) -> list[SessionItem]:
    """Every choice of up to four lanes; of lanes that gave the same text, one takes part, in turn."""
    by_text: dict[str, list[int]] = {}
    for lane in answered:
        by_text.setdefault(texts[prompt, Candidate(lane)], []).append(lane)
    different = sorted(lanes[prompt % len(lanes)] for lanes in by_text.values())
    if len(different) < 2:
        return []
    size = min(MOST_RANKED, len(different))
    return [
        SessionItem(prompt=prompt, candidates=tuple(Candidate(lane) for lane in chosen))
        for chosen in combinations(different, size)
    ]


def _differ(texts: AnswerTexts, prompt: int, lane: int) -> bool:
    first, second = texts.get((prompt, Candidate(lane, 0))), texts.get((prompt, Candidate(lane, 1)))
    return first is not None and second is not None and first != second


def _repeated(real: list[SessionItem]) -> list[SessionItem]:
    """The same answer on both sides, where no two lanes ever gave the same one."""
    return [
        SessionItem(prompt=item.prompt, candidates=(item.candidates[0],) * 2, control=ControlKind.IDENTICAL)
        for item in real[::CONTROL_EVERY]
    ]


@dataclass(frozen=True, slots=True)
class Giveaway:
    """A name of a lane or its model in an answer."""

    prompt: int
    lane: int
    word: str


def giveaways(plan: SessionPlan, answers: Iterable[SessionAnswer]) -> tuple[Giveaway, ...]:
    """The first name in each answer that holds one which its prompt does not; any lane's name counts."""
    words = sorted({word.casefold() for lane in plan.lanes for word in _names(lane)})
    shown = []
    for answer in answers:
        asked = plan.prompts.prompts[answer.prompt].text.casefold()
        answered = answer.record.text.casefold()
        word = next((word for word in words if word in answered and word not in asked), None)
        if word is not None:
            shown.append(Giveaway(answer.prompt, answer.lane, word))
    return tuple(shown)


def _names(lane: LaneSpec) -> list[str]:
    models = [lane.model.name, lane.model.checkpoint] if lane.model else []
    if lane.endpoint and lane.endpoint.model:
        models.append(lane.endpoint.model)
    families = [_FAMILY.match(PurePath(model).name) for model in models]
    names = [lane.name, *(family.group() for family in families if family)]
    return [name for name in names if len(name) >= _SHORTEST]


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
