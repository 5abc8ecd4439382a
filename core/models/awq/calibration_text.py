"""Calibration data: text from a file or from Python's own documentation, or prompts for answers.

Text is cut into samples of equal length; files and numbers of tokens are known, no tokenizer. The prompts are
everyday requests in English and Chinese, different in kind and length, so that the answers use much of what
the model does: facts, explanations, lists, stories, letters, sums, code, and translation. They are kept apart
from every prompt that the project measures with, so that no model is scored on what it was calibrated on.
Standard library only, since the worker runs it.
"""

import hashlib
import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import units
from core.errors import InputError
from core.i18n import N_

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
