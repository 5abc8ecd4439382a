"""Prompt sets: the shipped ones, and those that people bring as CSV, JSONL, text or pasted lines.

A set has a version that is computed from its prompts, so that two sessions with the same version asked the
same. Images are named by file name, in an upload or in the gallery, and stay in the image store.
"""

import csv
import hashlib
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath

from core.codec import decode, encode
from core.domain.conversation import StoredImage
from core.domain.sessions import MOST_PROMPTS, PromptSet, SessionPrompt
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
