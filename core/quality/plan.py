"""The plan of a quality run: prompts, tasks and texts, of the same lanes, always greedily."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from core.domain.conversation import Sampling
from core.domain.fairness import LMDEPLOY_KINDS
from core.domain.specs import LaneSpec
from core.domain.turns import new_id
from core.errors import InputError
from core.i18n import N_
from core.quality.tasks import TaskItem

MOST_PROMPTS = 500
MOST_TASKS = 4000
KV_BITS = (8, 4)
_MOST_FILE_BYTES = 4 * 2**20


class TextKind(StrEnum):
    """The source of a text to score."""

    OWN_ANSWERS = "own-answers"
    """The reference's answers to the prompts, each after its prompt in the chat template."""
    PYTHON_DOCS = "python-docs"
    """The language reference that Python ships for `help()`: technical English."""
    FILE = "file"


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSource:
    """A text whose likelihood is compared; `content` only for a file."""

    name: str
    kind: TextKind
    content: str = ""


_TASK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
OWN_ANSWERS = TextSource(name="own answers", kind=TextKind.OWN_ANSWERS)
PYTHON_DOCS = TextSource(name="Python documentation", kind=TextKind.PYTHON_DOCS)


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityPlan:
    """Raises InputError for what can't be compared."""

    lanes: tuple[LaneSpec, ...]
    reference: str
    """The lane that the others are held against, by its name."""
    prompts: tuple[str, ...] = ()
    tasks: tuple[TaskItem, ...] = ()
    task_sets: tuple[str, ...] = ()
    """The names of the sets that the tasks come from."""
    texts: tuple[TextSource, ...] = ()
    answer_tokens: int = 48
    """The longest answer to a prompt."""
    text_tokens: int = 4096
    """Scored of each text, at most."""
    window_tokens: int = 512
    """Longer texts are scored in stretches of this length, each on its own."""
    logits: bool = True
    """Compare logits as well, where a lane's weights are on this machine: LMDeploy's engines are loaded once
    more for that."""
    external_tasks: tuple[str, ...] = ()
    """Tasks of lm-evaluation-harness, by its names."""
    external_limit: int | None = None
    """Questions of each of them; None asks all."""
    repeat_reference: bool = True
    """Ask the reference every prompt twice: the difference is numerical noise."""
    title: str = ""
    id: str = field(default_factory=new_id)

    def __post_init__(self) -> None:
        names = [lane.name for lane in self.lanes]
        if self.reference not in names:
            raise InputError(
                N_("The reference lane {lane} isn't one of the lanes.", lane=self.reference or "–"),
                hint=N_("Choose one of the compared lanes as the reference."),
            )
        if len(set(names)) < len(names):
            raise InputError(N_("Two lanes have the same name."), hint=N_("Rename one of them."))
        if not (self.prompts or self.tasks or self.texts or self.external_tasks):
            raise InputError(
                N_("Nothing is selected to compare."), hint=N_("Choose prompts, tasks, or texts.")
            )
        if len(self.prompts) > MOST_PROMPTS or len(self.tasks) > MOST_TASKS:
            raise InputError(
                N_(
                    "A run can have at most {prompts} prompts and {tasks} tasks.",
                    prompts=MOST_PROMPTS,
                    tasks=MOST_TASKS,
                ),
                hint=N_("Choose fewer."),
            )
        if any(text.kind is TextKind.OWN_ANSWERS for text in self.texts) and not self.prompts:
            raise InputError(
                N_("Own answers need prompts."),
                hint=N_("Also choose prompts, or choose another text."),
            )
        for task in self.external_tasks:
            # The program would take a path too, and run the code that a file there names.
            if not _TASK_NAME.fullmatch(task):
                raise InputError(
                    N_("{task} is not a valid task name.", task=task[:80]),
                    hint=N_("Allowed: letters, digits, hyphens and underscores, such as gsm8k."),
                )
        if not 8 <= self.window_tokens <= self.text_tokens:
            raise InputError(
                N_("The window length can't be {tokens} tokens.", tokens=self.window_tokens),
                hint=N_("Choose at least 8, and at most the number of tokens scored per text."),
            )

    @property
    def label(self) -> str:
        """The title, or one made from what is compared."""
        return self.title or f"{', '.join(lane.name for lane in self.lanes)} · {self.reference}"

    @property
    def ordered_lanes(self) -> tuple[LaneSpec, ...]:
        """The reference first: its answers are a text for all."""
        return tuple(sorted(self.lanes, key=lambda lane: lane.name != self.reference))

    @property
    def answers(self) -> int:
        """Requests of the whole run."""
        one = len(self.prompts) + len(self.tasks)
        return one * len(self.lanes) + (len(self.prompts) if self.repeat_reference else 0)

    def sampling(self, max_tokens: int) -> Sampling:
        return Sampling(temperature=0.0, max_tokens=max_tokens)


def kv_variants(lane: LaneSpec, bits: Iterable[int]) -> tuple[LaneSpec, ...]:
    """The same lane with its KV cache quantised to 8 or 4 bits (`quant_policy`).

    Raises InputError for a lane whose engine can't do that.
    """
    chosen = tuple(bits)
    if chosen and lane.kind not in LMDEPLOY_KINDS:
        raise InputError(
            N_("{lane} has no setting for KV cache bits.", lane=lane.name),
            hint=N_("Choose an LMDeploy lane."),
        )
    if unknown := [number for number in chosen if number not in KV_BITS]:
        raise InputError(
            N_("The KV cache can't have {bits} bits.", bits=unknown[0]), hint=N_("Choose 8 or 4.")
        )
    return tuple(
        replace(lane, name=f"{lane.name}-kv{number}", settings=replace(lane.settings, quant_policy=number))
        for number in chosen
    )


def text_file(name: str, content: bytes) -> TextSource:
    """A file of one's own to score; raises InputError for what is no text."""
    if len(content) > _MOST_FILE_BYTES:
        raise InputError(N_("{name} is larger than 4 MiB.", name=name), hint=N_("Use only a part of it."))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise InputError(
            N_("{name} is not a UTF-8 text file.", name=name), hint=N_("Convert it to UTF-8.")
        ) from exc
    if not text.strip():
        raise InputError(N_("{name} is empty.", name=name), hint=N_("Choose a file with text in it."))
    return TextSource(name=Path(name).name, kind=TextKind.FILE, content=text)


def windows(ids: Sequence[int], length: int, most_tokens: int) -> tuple[tuple[int, ...], ...]:
    """Stretches of `length` ids, spread evenly over the text, without overlap and of `most_tokens` at most.

    A text shorter than one stretch is one as it is.
    """
    if len(ids) <= length:
        return (tuple(ids),) if len(ids) > 1 else ()
    count = min(len(ids), most_tokens) // length
    stride = len(ids) // count
    return tuple(tuple(ids[start : start + length]) for start in range(0, stride * count, stride))
