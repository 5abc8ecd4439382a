"""Whether an answer is right."""

import re
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the|it is|its|there are|there is|in|at|on)\b")
_OTHER = re.compile(r"[^a-z0-9 ]+")


def normalised(text: str) -> str:
    """Lower case, no punctuation, no articles and prepositions, single spaces."""
    plain = _OTHER.sub(" ", text.lower().replace("-", " ").replace("'", ""))
    return " ".join(_ARTICLES.sub(" ", plain).split())


def is_right(given: str, answers: Sequence[str]) -> bool:
    """Exact match with one of the right answers, once both are normalised."""
    return normalised(given) in {normalised(answer) for answer in answers}
