"""What the history page shows, by its address: one entry, `?compare=…,…`, or none of them.

Knows nothing of Streamlit, so that links are the same wherever they are made.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

RUN = "run"
TURN = "turn"
QUALITY = "quality"
WALK = "walk"
QUIZ = "quiz"
SWEEP = "sweep"
COMPARE = "compare"
BASELINE = "baseline"
REPLAY = "replay"
"""With an entry: it opens with its replay."""


@dataclass(frozen=True, slots=True)
class Address:
    """One of the first seven is set, or none for the list."""

    run: str | None = None
    turn: str | None = None
    quality: str | None = None
    walk: str | None = None
    quiz: str | None = None
    sweep: str | None = None
    compare: tuple[str, ...] = ()
    """Ids of runs of one kind, each once."""
    baseline: str | None = None
    """The one of them that the others are held against."""


def parse(query: Mapping[str, str]) -> Address:
    """The first entry or comparison that the query names; what can't be an id stays as it is."""
    if run := query.get(RUN, "").strip():
        return Address(run=run)
    if turn := query.get(TURN, "").strip():
        return Address(turn=turn)
    if quality := query.get(QUALITY, "").strip():
        return Address(quality=quality)
    if walk := query.get(WALK, "").strip():
        return Address(walk=walk)
    if quiz := query.get(QUIZ, "").strip():
        return Address(quiz=quiz)
    if sweep := query.get(SWEEP, "").strip():
        return Address(sweep=sweep)
    named = (part.strip() for part in query.get(COMPARE, "").split(","))
    compare = tuple(dict.fromkeys(part for part in named if part))
    return Address(compare=compare, baseline=query.get(BASELINE, "").strip() or None if compare else None)


def link(url: str | None, query: Mapping[str, str | Sequence[str]]) -> str:
    """The address of a view; relative to the page if the page's own is not known."""
    text = urlencode(
        {
            name: value if isinstance(value, str) else ",".join(value)
            for name, value in query.items()
            if value
        },
        safe=",",
        quote_via=quote,
    )
    parts = urlsplit(url or "")
    return urlunsplit((parts.scheme, parts.netloc, parts.path, text, ""))
