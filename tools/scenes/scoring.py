"""Whether an answer is right, and how sure a share of right answers is."""

import math
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


def wilson(right: int, asked: int, z: float = 1.96) -> tuple[float, float] | None:
    """Wilson's score interval of a proportion, 95 % at the default z; None of nothing asked.

    Source: E. B. Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", Journal of
    the American Statistical Association 22 (1927).
    """
    if not asked:
        return None
    share, spread = right / asked, z * z / asked
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / asked + spread / (4 * asked)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)
