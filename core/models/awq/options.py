"""Options of a quantisation to W4A16, and the text that it is calibrated on.

Calibration data is text from a file or from Python's own documentation, or prompts for answers. Text is cut
into samples of equal length; files and numbers of tokens are known, no tokenizer. The prompts are everyday
requests in English and Chinese, different in kind and length, so that the answers use much of what the model
does: facts, explanations, lists, stories, letters, sums, code, and translation. They are kept apart from
every prompt that the project measures with, so that no model is scored on what it was calibrated on.

Standard library and small modules of `core` only: the worker in the engine's Python reads it too.
"""

import hashlib
import json
import platform
import re
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from core import units
from core.errors import InputError
from core.i18n import N_
from core.units import count

GROUP_SIZE = 128
"""Weights that share one scale: the only size that TurboMind takes for AWQ (`turbomind/converter.py`)."""
NO_DATA = "none"
OWN_ANSWERS = "own-answers"
PYTHON_DOCS = "python-docs"
NAMED_SETS = (
    "wikitext2",
    "c4",
    "pileval",
    "gsm8k",
    "neuralmagic_calibration",
    "open-platypus",
    "openwebtext",
)
"""What LMDeploy 0.18's `--calib-dataset` takes; each is downloaded from the Hugging Face hub."""
_DEVICE = re.compile(r"cpu|cuda(:\d+)?")
MAX_BYTES = 64 * 2**20
"""A calibration looks at some hundred thousand tokens; tokenising a corpus for that would take minutes."""
Conversation = list[dict[str, Any]]
ANSWER_TOKENS = 512
"""Where an answer is cut off."""
PROMPT_TOKENS = 128
"""The longest prompt with a chat template's system prompt, roughly."""
PROMPTS = (
    "What does a lighthouse do?",
    "Explain how rain forms.",
    "Write a short story about a cat that finds an old map.",
    "Write a Python function that counts the vowels in a string.",
    "List six vegetables and say how each one is cooked.",
    "Who invented the printing press, and why did it matter?",
    "Write a friendly letter to a neighbour who has just moved in.",
    "What is the difference between weather and climate?",
    "How do I change a flat tyre?",
    "Give me a recipe for tomato soup.",
    "A train travels 180 kilometres in two hours. How fast is it? Show your steps.",
    "What is a computer network?",
    "Translate into French: The library opens at nine.",
    "Describe a market in the early morning.",
    "What are the advantages and disadvantages of working from home?",
    "Explain gravity to a ten-year-old.",
    "Write a product description for a wooden pencil case.",
    "What is inflation?",
    "Summarise how a bill becomes a law.",
    "Give three ideas for a birthday party at home.",
    "How does a vaccine work?",
    "Write a dialogue between a baker and a customer.",
    "What is the purpose of a firewall?",
    "Name the planets of the solar system with one fact about each.",
    "Write an SQL query that finds the five largest orders of each customer, and explain it.",
    "Why do leaves change colour in autumn?",
    "Help me plan a day in a city that I have never visited.",
    "What makes a good leader?",
    "Correct the grammar: She don't has no time for reading yesterday.",
    "Explain the difference between a list and a tuple in Python.",
    "Write a haiku about the moon, and explain it.",
    "How can I sleep better?",
    "请介绍一下长城的历史。",
    "为什么天空是蓝色的？",
    "写一个关于小狗和老人的小故事。",
    "用 Python 写一个判断素数的函数，并解释它。",
    "请给出三条节约用水的建议。",
    "什么是人工智能？",
    "怎样做西红柿炒鸡蛋？",
    "请把这句话翻译成英文：今天下午我们去图书馆。",
    "写一封感谢老师的信。",
    "地球为什么有四季？",
    "请比较火车和飞机的优缺点。",
    "一件衣服原价二百元，打八折后是多少钱？请写出步骤。",
    "请用一段话描述春天的早晨。",
    "什么是通货膨胀？",
    "如何准备一次面试？",
    "介绍三位中国古代诗人。",
)


class CalibrationSource(StrEnum):
    NONE = "none"
    """Data-free: round to nearest, without looking at activations."""
    OWN_ANSWERS = "own-answers"
    """The model's own answers to built-in prompts: for every model that can write, without a download."""
    PYTHON_DOCS = "python-docs"
    """The language reference that Python ships for `help()`: English text that is on every machine."""
    NAMED_SET = "named-set"
    FILE = "file"
    """A text file, or JSONL with `text` or `messages` in each line."""


class Rounding(StrEnum):
    NEAREST = "nearest"
    """Each weight to the nearest value, by LMDeploy's `auto_awq`."""
    COMPENSATED = "compensated"
    """Layer after layer, so that each layer's output changes least (`core.models.awq.rounding`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AwqOptions:
    """Options of one quantisation, under LMDeploy's own names; raises InputError for values out of range."""

    calibration: str = PYTHON_DOCS
    """`none`, `own-answers`, `python-docs`, one of NAMED_SETS, or the path of a file."""
    samples: int = 32
    """Calibration sequences (`--calib-samples`)."""
    seqlen: int = 1024
    """Tokens in each (`--calib-seqlen`)."""
    search_scale: bool = False
    """Try 20 scales for each layer and keep the best: better, and many times slower."""
    batch_size: int = 1
    """Sequences that go through a layer at once.

    The scale search finds a scale for each batch and uses their mean. A batch of all samples is searched
    once, for the scale that suits them together. Compensated rounding always takes all together.
    """
    rounding: str = Rounding.NEAREST
    """`nearest`, or `compensated`: loses less, needs data and a model of Llama's structure."""
    dtype: str = "float16"
    """What the source is loaded as: `float16`, in which LMDeploy keeps its statistics, or `bfloat16`."""
    device: str = "cuda"
    """`cuda` (the GPU with most free memory), `cuda:N` or `cpu`."""
    out: str | None = None
    """The folder that will hold the result; None is `NAME-awq` in the models folder."""
    python: str = sys.executable
    """Interpreter with lmdeploy."""

    def __post_init__(self) -> None:
        _within("samples", self.samples, 1, 4096)
        _within("seqlen", self.seqlen, 16, 131_072)
        _within("batch_size", self.batch_size, 1, 256)
        if self.rounding not in list(Rounding):
            raise InputError(
                N_("{key} is {value}.", key="rounding", value=self.rounding),
                hint=N_("Choose nearest or compensated."),
            )
        if self.rounding == Rounding.COMPENSATED and self.source is CalibrationSource.NONE:
            raise InputError(
                N_("Error-compensated rounding needs a calibration text."),
                hint=N_("Choose a calibration text, or `nearest`."),
            )
        if self.dtype not in ("float16", "bfloat16"):
            raise InputError(
                N_("{key} is {value}.", key="dtype", value=self.dtype),
                hint=N_("Choose float16 or bfloat16."),
            )
        if not _DEVICE.fullmatch(self.device):
            raise InputError(
                N_("{key} is {value}.", key="device", value=self.device),
                hint=N_("Choose cuda, cuda:N, or cpu."),
            )
        if self.device == "cpu" and self.dtype == "bfloat16":
            raise InputError(
                N_("LMDeploy loads bfloat16 only with a GPU that supports it."),
                hint=N_("Choose float16 on the CPU."),
            )

    @property
    def source(self) -> CalibrationSource:
        if self.calibration == NO_DATA:
            return CalibrationSource.NONE
        if self.calibration == OWN_ANSWERS:
            return CalibrationSource.OWN_ANSWERS
        if self.calibration == PYTHON_DOCS:
            return CalibrationSource.PYTHON_DOCS
        if self.calibration in NAMED_SETS:
            return CalibrationSource.NAMED_SET
        return CalibrationSource.FILE

    @property
    def calibration_file(self) -> Path | None:
        return Path(self.calibration).expanduser() if self.source is CalibrationSource.FILE else None


def _within(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InputError(
            N_("{key} is {value}.", key=name, value=count(value)),
            hint=N_("Choose a value from {low} to {high}.", low=count(low), high=count(high)),
        )


@dataclass(frozen=True, slots=True)
class CalibrationText:
    """Documents to calibrate on: plain text, or conversations for the model's chat template."""

    name: str
    sha256: str
    documents: tuple[str | Conversation, ...]


def python_docs() -> CalibrationText:
    """The language reference as Python ships it for `help()`: about 110,000 tokens of technical English."""
    from pydoc_data.topics import topics

    documents = tuple(text for _, text in sorted(topics.items()))
    digest = hashlib.sha256("\n\n".join(documents).encode()).hexdigest()
    return CalibrationText(
        f"Python {platform.python_version()} language reference (pydoc_data.topics)", digest, documents
    )


def read_text(file: Path) -> CalibrationText:
    """The documents of a text file (the whole is one) or a `.jsonl` file (each line is one).

    Raises InputError: `calibration-unreadable`.
    """
    try:
        if file.stat().st_size > MAX_BYTES:
            raise _unreadable(
                N_("{file} is larger than {limit}.", file=file, limit="64 MiB"),
                N_("Use only a part of it."),
            )
        content = file.read_bytes()
        text = content.decode("utf-8")
    except OSError as exc:
        raise _unreadable(
            N_("{file} can't be read: {reason}", file=file, reason=exc.strerror),
            N_("Check the path and its permissions."),
        ) from exc
    except UnicodeDecodeError as exc:
        raise _unreadable(
            N_("{file} is not a UTF-8 text file.", file=file), N_("Save the file as UTF-8.")
        ) from exc
    documents: tuple[str | Conversation, ...] = (text,)
    if file.suffix == ".jsonl":
        lines = enumerate(text.splitlines(), start=1)
        documents = tuple(_document(line, file, number) for number, line in lines if line.strip())
    return CalibrationText(file.name, hashlib.sha256(content).hexdigest(), documents)


def sample_starts(tokens: int, samples: int, seqlen: int) -> range:
    """Return where each sample of `seqlen` tokens begins: spread evenly over the text, without overlap.

    Raises InputError (`calibration-too-short`) saying how many samples there would be.
    """
    there = tokens // seqlen
    if there < samples:
        raise InputError(
            N_(
                "The calibration text has only {tokens} tokens, which is enough for {n} samples of "
                "{length} tokens "
                "instead of {samples}.",
                tokens=units.count(tokens),
                n=there,
                length=units.count(seqlen),
                samples=samples,
            ),
            hint=N_("Choose at most {n} samples, shorter samples, or a longer text.", n=there)
            if there
            else N_("Choose shorter samples or a longer text."),
            code="calibration-too-short",
        )
    stride = tokens // samples
    return range(0, stride * samples, stride)


def _document(line: str, file: Path, number: int) -> str | Conversation:
    hint = N_(
        "Write each line as {text} or {messages}.",
        text='{"text": "…"}',
        messages='{"messages": [{"role": "user", "content": "…"}, …]}',
    )
    try:
        entry = json.loads(line)
    except ValueError as exc:
        raise _unreadable(
            N_("{file}, line {line}: not valid JSON: {reason}", file=file, line=number, reason=exc), hint
        ) from exc
    if isinstance(entry, dict):
        text, messages = entry.get("text"), entry.get("messages")
        if isinstance(text, str):
            return text
        if isinstance(messages, list) and all(_is_message(message) for message in messages):
            return messages
    raise _unreadable(N_("{file}, line {line}: neither text nor messages.", file=file, line=number), hint)


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and {"role", "content"} <= value.keys()


def _unreadable(message: str, hint: str) -> InputError:
    return InputError(message, hint=hint, code="calibration-unreadable")
