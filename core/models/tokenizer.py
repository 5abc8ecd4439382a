"""A lane's own tokenizer, to count tokens before anything is sent, or where a server doesn't count.

Imports `tokenizers`, and so belongs to the processes that measure; the dashboard never loads it.
"""

from functools import lru_cache
from pathlib import Path

from tokenizers import Tokenizer

from core.errors import InputError
from core.i18n import N_

_CANDIDATES = 6000


@lru_cache(maxsize=8)
def tokenizer_in(folder: str) -> "LaneTokenizer":
    """The tokenizer of a folder, read once. Raises InputError (`no-tokenizer`)."""
    return LaneTokenizer(Path(folder))


class LaneTokenizer:
    """`tokenizer.json` of a checkpoint. Safe for several threads."""

    def __init__(self, folder: Path) -> None:
        """Raises InputError (`no-tokenizer`) if the folder has none that can be read."""
        file = folder / "tokenizer.json"
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        # tokenizers raises a plain Exception for every kind of unreadable file.
        except Exception as exc:
            raise InputError(
                N_("Can't read the tokenizer {path}: {reason}", path=file, reason=exc),
                hint=N_("Checkpoints with a fast tokenizer have this file."),
                code="no-tokenizer",
            ) from exc

    def count(self, text: str) -> int:
        """Tokens of the text, without those that a chat template adds."""
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def plain_words(self) -> tuple[str, ...]:
        """English-looking words that are one token each, at the start of a text and after a space.

        In a stable order and from all over the alphabet; any of them joined by spaces are as many tokens.
        """
        candidates = set()
        for token in self._tokenizer.get_vocab():
            word = token.lstrip("Ġ▁")
            if word != token and word.isascii() and word.isalpha() and word.islower() and len(word) > 1:
                candidates.add(word)
        words = sorted(candidates)
        words = words[:: max(1, len(words) // _CANDIDATES)]
        alone = self._counts(words)
        inside = self._counts([f"the {word} the" for word in words])
        around = self.count("the the")
        return tuple(
            word for word, one, more in zip(words, alone, inside, strict=True) if one == 1 == more - around
        )

    def _counts(self, texts: list[str]) -> list[int]:
        return [len(found.ids) for found in self._tokenizer.encode_batch(texts, add_special_tokens=False)]
