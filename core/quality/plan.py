"""The plan of a quality run, of the same lanes, always greedily, and the sources of what it asks.

Tasks come from the sets that are shipped, the gallery's drawn scenes, or files of one's own; texts are own
answers, what Python ships, or files.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from core.codec import decode, encode
from core.domain.conversation import Sampling
from core.domain.fairness import LMDEPLOY_KINDS
from core.domain.specs import LaneSpec
from core.domain.turns import new_id
from core.errors import InputError
from core.i18n import N_, Text
from core.images.gallery import GalleryKind, gallery
from core.images.sanitise import sanitise
from core.images.store import ImageStore
from core.quality.tasks import Grader, TaskItem, check_schema

MOST_PROMPTS = 500
MOST_TASKS = 4000
KV_BITS = (8, 4)
_MOST_FILE_BYTES = 4 * 2**20
_FOLDER = Path(__file__).parent / "data"
MOST_ITEMS = 2000
MOST_BYTES = 8 * 2**20
JSONL_EXAMPLE = '{"prompt": "What is 6 × 7?", "grader": "number", "answers": ["42"]}'
CSV_EXAMPLE = "prompt,answers,grader\nWhat is 6 × 7?,42,number\nIs ice water?,yes|yes it is,exact"
_SEPARATOR = "|"
"""Between several answers or choices in a field of a CSV file."""
SCENES = "scenes"
"""The set's name."""
PROMPTS = (
    "What is the capital of France?",
    "Explain in two sentences why the sky is blue.",
    "Write a short poem about the sea.",
    "What is the difference between a virus and a bacterium?",
    "Give me three tips for learning a new language.",
    "Summarise the story of Romeo and Juliet in three sentences.",
    "Write a Python function that reverses a string.",
    "What does the word “ubiquitous” mean? Use it in a sentence.",
    "List five animals that live in Africa.",
    "How does a bicycle stay upright?",
    "Describe the taste of a lemon to somebody who has never eaten one.",
    "What are the three states of matter?",
    "Write a polite email asking for a day off.",
    "Explain what a database index is.",
    "Who was Marie Curie?",
    "What should I pack for a weekend in the mountains?",
    "Convert 20 degrees Celsius to Fahrenheit and show the steps.",
    "Name three advantages and one disadvantage of electric cars.",
    "Tell me a short story about a lighthouse keeper.",
    "What happens when water freezes?",
    "How do I make a cup of tea?",
    "Explain the rule of three in mathematics with an example.",
    "What is photosynthesis?",
    "Give an example of a metaphor and explain it.",
    "请用两句话介绍北京。",
    "水为什么会结冰？",
    "请写一首关于秋天的短诗。",
    "学习编程有哪些好处？请列出三点。",
    "请解释什么是光合作用。",
    "用 Python 写一个计算列表平均值的函数。",
    "怎样保持健康的生活习惯？",
    "请用一句话总结《西游记》的故事。",
)


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


class ShippedSet(StrEnum):
    """The sets that come with LMDyno; every answer in them was checked."""

    ENGLISH = "english"
    CHINESE = "chinese"


def shipped(name: ShippedSet) -> tuple[TaskItem, ...]:
    """The items of a shipped set."""
    text = (_FOLDER / f"{name}.jsonl").read_text("utf-8")
    return tuple(decode(TaskItem, line) for line in text.splitlines())


def read_set(name: str, content: bytes) -> tuple[TaskItem, ...]:
    """The items of a CSV or JSONL file.

    Raises InputError (`task-set`) naming the first line that is wrong. In a CSV file several answers or
    choices stand in one field, separated by "|". Without a grader an item with choices is a `choice`, any
    other one `contains`.
    """
    if len(content) > MOST_BYTES:
        raise _unusable(N_("{file} is larger than {limit}.", file=name, limit="8 MiB"))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise _unusable(N_("{file} is not a UTF-8 text file.", file=name)) from exc
    reader = _READERS.get(Path(name).suffix.lower())
    if reader is None:
        raise _unusable(N_("{file} is not a CSV or JSONL file.", file=name))
    items = tuple(_item(name, number, fields) for number, fields in reader(name, text))
    if not 1 <= len(items) <= MOST_ITEMS:
        raise _unusable(
            N_("{file} has {n} items. A set needs 1 to {most}.", file=name, n=len(items), most=MOST_ITEMS)
        )
    if len({item.id for item in items}) < len(items):
        raise _unusable(N_("{file} has two items with the same ID.", file=name))
    return items


def _jsonl(name: str, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except ValueError as exc:
            raise _unusable(N_("{file}, line {line}: not valid JSON.", file=name, line=number)) from exc
        if not isinstance(fields, dict):
            raise _unusable(N_("{file}, line {line}: not a JSON object.", file=name, line=number))
        yield number, fields


def _csv(name: str, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text))
    if "prompt" not in (reader.fieldnames or ()):
        raise _unusable(N_("{file} has no column named prompt.", file=name))
    for row in reader:
        fields: dict[str, Any] = {key: value for key, value in row.items() if key and value}
        for key in ("answers", "choices"):
            if key in fields:
                fields[key] = [part.strip() for part in fields[key].split(_SEPARATOR)]
        for key, convert in _CONVERTED.items():
            if key in fields:
                try:
                    fields[key] = convert(fields[key])
                except ValueError as exc:
                    raise _unusable(
                        N_("{file}, line {line}: can't read {key}.", file=name, line=reader.line_num, key=key)
                    ) from exc
        yield reader.line_num, fields


_CONVERTED: Mapping[str, Callable[[str], object]] = {
    "json_schema": json.loads,
    "tolerance": float,
    "max_tokens": int,
}
_READERS: Mapping[str, Callable[[str, str], Iterator[tuple[int, dict[str, Any]]]]] = {
    ".jsonl": _jsonl,
    ".csv": _csv,
}


def _item(name: str, number: int, fields: dict[str, Any]) -> TaskItem:
    fields.setdefault("id", f"line-{number}")
    if "grader" not in fields:
        fields["grader"] = Grader.CHOICE if fields.get("choices") else Grader.CONTAINS
    try:
        item = decode(TaskItem, encode(fields))
        if item.json_schema is not None:
            check_schema(item.json_schema)
    except InputError as error:
        raise InputError(
            N_(
                "{file}, line {line}: {problem}",
                file=name,
                line=number,
                problem=_without_class(error.message),
            ),
            hint=error.hint or N_("An example line: {example}", example=JSONL_EXAMPLE),
            code="task-set",
        ) from error
    return item


def _without_class(message: Text) -> Text:
    """The message of a record that can't be decoded begins with our class's name."""
    return message.removeprefix("TaskItem: ") if message.startswith("TaskItem: ") else message


def _unusable(message: Text) -> InputError:
    return InputError(
        message,
        hint=N_("Use a CSV file, or a JSONL file with lines such as {example}", example=JSONL_EXAMPLE),
        code="task-set",
    )


def scene_count() -> int:
    return sum(len(image.questions) for image in gallery() if image.kind is GalleryKind.SCENE)


def scenes(image_store: ImageStore) -> tuple[TaskItem, ...]:
    """A task for each question about a drawn scene; the scenes are put into the image store."""
    return tuple(
        TaskItem(
            id=f"{image.name}-{number}",
            prompt=asked.question,
            grader=Grader.CONTAINS,
            answers=asked.answers,
            language="en",
            topic="scenes",
            max_tokens=32,
            image=stored,
        )
        for image in gallery()
        if image.kind is GalleryKind.SCENE
        for stored in (image_store.put(sanitise(image.path.read_bytes(), name=image.path.name)),)
        for number, asked in enumerate(image.questions, start=1)
    )
