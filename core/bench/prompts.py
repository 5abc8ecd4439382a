"""From a workload to the messages of each request.

A prompt is known by its number: the lanes of a comparison get the same prompts, and with synthetic ones no
two requests of any run begin alike, so that no prefix cache helps. Files and examples are sent as they are.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from core import i18n
from core.bench.planning.plan import PromptKind, Workload
from core.bench.planning.presets import prompt_kind
from core.bench.prompt_files import read_prompts
from core.domain.conversation import EXAMPLES, Message, Role
from core.errors import InputError
from core.files import keep_upload, upload_path
from core.i18n import N_, N_plural, Text
from core.settings import Settings

_COMMON = """
able about above after again air all also always animal answer any area arm art ask away baby back bad
ball bank base bear beat bed before begin best better big bird black blue board boat body book both box
boy break bring brother build busy buy call came can car care carry case cat catch cause center chair
change check child city class clean clear close cold color come common cook cool copy corner cost country
course cover cross cry cup cut dark day deep desk did dinner do dog door down draw dream dress drink drive
dry duck each early earth east easy eat edge egg eight end enough even ever every eye face fact fall
family far farm fast father feel feet few field fight fill film find fine fire first fish five floor fly
follow food foot for force form four free fresh friend from front full game garden gave get girl give
glass go gold good grass gray great green ground group grow hair half hall hand happy hard hat have he
head hear heart heat heavy help her here high hill
"""
COMMON_WORDS = tuple(_COMMON.split())
"""One token each for nearly every tokenizer; for lanes whose own tokenizer is not here."""

_PREFIX_WORDS = 8
_BODIES = 64


class Prompts(Protocol):
    """The prompts of one lane. Making one must be quick: it happens while others are being measured."""

    @property
    def label(self) -> Text:
        """How they were made and their length counted, in words."""

    def messages(self, number: int) -> tuple[Message, ...]:
        """Return what the request with this number is sent; numbers may be any."""


class SyntheticPrompts:
    """Words drawn at random: a beginning that is unique to run and number, then one of a few bodies."""

    def __init__(self, words: Sequence[str], length: int, *, label: Text, seed: int, run_id: str) -> None:
        """`length` counts words."""
        self.label = label
        self._words = words
        self._run_id = run_id
        self._prefix = min(_PREFIX_WORDS, length)
        source = random.Random(seed)
        self._bodies = [" ".join(source.choices(words, k=length - self._prefix)) for _ in range(_BODIES)]

    def messages(self, number: int) -> tuple[Message, ...]:
        source = random.Random(f"{self._run_id}/{number}")
        beginning = " ".join(source.choices(self._words, k=self._prefix))
        return (Message(Role.USER, f"{beginning} {self._bodies[number % _BODIES]}".rstrip()),)


class ListedPrompts:
    """Given prompts in their order, from the start again after the last."""

    def __init__(
        self, prompts: Sequence[tuple[Message, ...]], name: str, remarks: Sequence[Text] = ()
    ) -> None:
        """`remarks` tell what was left out."""
        self.label: Text = N_plural(
            "{n} prompt from {source}", "{n} prompts from {source}, in order", len(prompts), source=name
        )
        for remark in remarks:
            self.label = N_("{prompts}; {remark}", prompts=self.label, remark=remark)
        self._prompts = prompts

    def messages(self, number: int) -> tuple[Message, ...]:
        return self._prompts[number % len(self._prompts)]


def listed_prompts(workload: Workload) -> ListedPrompts | None:
    """The examples or the prompts of a file; None for synthetic ones, which need a lane's tokenizer.

    Raises InputError: `prompt-file` for one that is missing, too large, empty, or of another form.
    """
    if workload.prompts is PromptKind.EXAMPLES:
        return ListedPrompts([_asked(text) for text in EXAMPLES.values()], N_("the examples"))
    if workload.path is None:
        return None
    path = Path(workload.path).expanduser()
    listed = read_prompts(workload.prompts, path)
    return ListedPrompts(listed.prompts, path.name, listed.remarks())


def words_for(tokens: int, short: tuple[int, int | None], long: tuple[int, int | None]) -> int | None:
    """Return how many common words make `tokens` tokens, from two prompts' (words, tokens by the server).

    The difference of the two leaves out what the chat template adds. None if the server does not count, or
    counts in a way that does not follow the length.
    """
    if short[1] is None or long[1] is None or long[1] <= short[1]:
        return None
    tokens_per_word = (long[1] - short[1]) / (long[0] - short[0])
    return max(1, round(tokens / tokens_per_word))


def _asked(text: str) -> tuple[Message, ...]:
    return (Message(Role.USER, text),)


def keep_prompt_file(settings: Settings, name: str, data: bytes) -> Workload:
    """Keep a prompt file and return a workload that names it; the same bytes are kept once.

    Raises InputError (`prompt-file`), and keeps nothing, for a file that holds no prompts.
    """
    folder = settings.home / "prompts"
    place = upload_path(folder, name, data, nameless="prompts.txt")
    kind, is_new = prompt_kind(place.name), not place.exists()
    path = keep_upload(folder, name, data, nameless="prompts.txt")
    workload = Workload(prompts=kind, path=str(path))
    try:
        listed_prompts(workload)
    except InputError as error:
        if is_new:
            path.unlink()
        # The person knows the file by its own name, not by where it was to be kept.
        message = error.message
        if isinstance(message, i18n.Message):
            message = message.filled(path=name)
        raise InputError(message, hint=error.hint, code=error.code) from error
    return workload
