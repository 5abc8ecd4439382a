"""What `load_accuracy.py` serves and how it asks: every kind of answer at each load, all at known times."""

import json
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from tests.expected_figures import Answer
from tests.scripted_server import Scenario

JITTER_GAPS = 51
"""Odd, so that the median of equally many copies of each lies among the copies of one."""
STALL_S = 0.25
SEED = 2026


class Turn(NamedTuple):
    """What one request is served, as some of `Scenario`'s fields, and the code that it fails with, if so."""

    fields: Mapping[str, Any]
    code: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """An endpoint whose requests get these turns, one after another and from the start again."""

    name: str
    dialect: str
    turns: tuple[Turn, ...]

    @property
    def model(self) -> str:
        return json.dumps([{"dialect": self.dialect, **turn.fields} for turn in self.turns])

    @property
    def answers(self) -> list[Answer]:
        """The whole answers of one round, as scheduled."""
        return [self.answer(turn) for turn in self.turns if turn.code is None]

    @property
    def codes(self) -> Counter[str]:
        """The failures of one round."""
        return Counter(turn.code for turn in self.turns if turn.code)

    def answer(self, turn: Turn) -> Answer:
        scenario = Scenario(**turn.fields)
        return Answer(
            chunks_s=list(islice(scenario.dues_s(), scenario.chunks)),
            tokens_per_chunk=scenario.tokens_per_chunk,
            names_tokens=self.dialect == "lmdeploy",
        )


class Bounds(NamedTuple):
    """How far off a figure may be."""

    latency_s: float
    """From the send: TTFT and E2E."""
    ratio: float
    """Between tokens, and whatever is by the second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One run: its lanes one after another, closed with so many streams, or open at such a rate."""

    name: str
    lanes: tuple[Lane, ...]
    requests: int
    bounds: Bounds
    slow_s: float
    """The TTFT that goodput allows; answers are either clearly faster or clearly slower."""
    streams: int | None = None
    rate_req_per_s: float | None = None
    poisson: bool = False

    @property
    def options(self) -> list[str]:
        """For the command line."""
        if self.streams is not None:
            return ["--concurrency", str(self.streams)]
        return ["--rate", str(self.rate_req_per_s), *(["--poisson"] if self.poisson else [])]


def closed(name: str, streams: int, *, rounds: int, interval_s: float, repeats: int, bounds: Bounds) -> Load:
    """All kinds of answers, `rounds` of them a stream; `repeats` of the gaps' pattern make an answer."""
    first_s = 0.1 if streams < 100 else 0.3  # some hundred requests take their time to be written
    plain = {"chunks": JITTER_GAPS * repeats + 1, "first_chunk_s": first_s, "interval_s": interval_s}
    source = random.Random(SEED)
    jitter = [round(2 * interval_s * source.random(), 6) for _ in range(JITTER_GAPS)]
    stall = [*[interval_s] * (JITTER_GAPS // 2), STALL_S, *[interval_s] * (JITTER_GAPS // 2)]
    lanes = (
        *(Lane(name=f"plain-{dialect}", dialect=dialect, turns=(Turn(plain),)) for dialect in DIALECTS),
        *(
            Lane(name=f"four-a-chunk-{dialect}", dialect=dialect, turns=(Turn({**plain, **FOUR}),))
            for dialect in DIALECTS
        ),
        Lane(name="jitter", dialect="lmdeploy", turns=(Turn({**plain, "gaps_s": jitter}),)),
        Lane(name="stalls", dialect="transformers", turns=(Turn({**plain, "gaps_s": stall}),)),
        *(Lane(name=f"failures-{dialect}", dialect=dialect, turns=failing(plain)) for dialect in DIALECTS),
    )
    return Load(
        name=name,
        lanes=lanes,
        requests=streams * rounds,
        bounds=bounds,
        slow_s=2 * first_s,
        streams=streams,
    )


def failing(plain: Mapping[str, Any]) -> tuple[Turn, ...]:
    """Eight turns, of which five come to their end, one of these slowly; what fails is late and slow too."""
    chunks, slow = plain["chunks"], {"first_chunk_s": 3 * plain["first_chunk_s"]}
    late = {**plain, **slow}
    return (
        Turn(plain),
        Turn({**plain, "status": 503, "error": "full"}, "engine-busy"),
        Turn(plain),
        Turn({**late, "error_after": chunks // 3, "error": "no luck"}, "endpoint-refused"),
        Turn(late),
        Turn({**late, "cut_after": chunks // 2}, "connection-lost"),
        Turn(plain),
        Turn(plain),
    )


def opened(rate_req_per_s: float, *, poisson: bool) -> Load:
    """Two seconds of arrivals, at a server that answers promptly and at one that answers only after them."""
    prompt = {"chunks": 11, "first_chunk_s": 0.1, "interval_s": 0.02}
    lagging = {**prompt, "first_chunk_s": 2.0}
    return Load(
        name=f"{rate_req_per_s:g} req/s, {'Poisson' if poisson else 'constant'}",
        lanes=(
            Lane(name="prompt", dialect="lmdeploy", turns=(Turn(prompt),)),
            Lane(name="lagging", dialect="lmdeploy", turns=(Turn(lagging),)),
        ),
        requests=round(2 * rate_req_per_s),
        bounds=MANY,
        slow_s=4.0,
        rate_req_per_s=rate_req_per_s,
        poisson=poisson,
    )


DIALECTS = ("lmdeploy", "transformers")
FOUR = {"tokens_per_chunk": 4}
ONE, MANY = Bounds(0.003, 0.01), Bounds(0.010, 0.02)

LOADS = (
    closed("1 stream", 1, rounds=8, interval_s=0.01, repeats=1, bounds=ONE),
    closed("32 streams", 32, rounds=2, interval_s=1 / 300, repeats=6, bounds=MANY),
    closed("256 streams", 256, rounds=2, interval_s=0.035, repeats=1, bounds=MANY),
    *(opened(rate, poisson=poisson) for poisson in (False, True) for rate in (20.0, 100.0)),
)
