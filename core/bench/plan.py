"""The plan of a load test, checked before anything is started, and its values out of texts that people type.

A plan is JSON through `core.codec` and is kept with its run, so that a result says what it is a result of.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from core.domain.conversation import Sampling, StoredImage
from core.domain.runs import LoadLevel
from core.domain.specs import LaneSpec
from core.domain.turns import new_id, utc_now
from core.errors import InputError
from core.i18n import N_
from core.units import count, gib

MAX_CONCURRENCY = 1024
MAX_RATE_REQ_PER_S = 10_000
MAX_REQUESTS = 100_000
MAX_SECONDS = 86_400
MAX_WORKERS = 64
MAX_WORKLOAD_IMAGES = 64
MAX_IMAGE_BYTES = 2**28
"""Of all images of a plan together: the measuring process keeps them in memory."""
MAX_BYTES_UNDER_WAY = 2**31
"""Of the images of all requests that are under way at once."""
_TITLE = re.compile(r"[^\x00-\x1f]{0,120}")


class PromptKind(StrEnum):
    """The source of prompts."""

    SYNTHETIC = "synthetic"
    """Words drawn at random to a fixed number of the lane's own tokens; no two prompts begin alike."""
    EXAMPLES = "examples"
    TEXT = "text"
    """A text file, one prompt a line."""
    JSONL = "jsonl"
    """One JSON document a line: a text, or an object with `prompt`, `text` or `messages`."""
    SHAREGPT = "sharegpt"
    """A JSON list of objects with `conversations`; the first thing a human said in each."""
    CSV = "csv"
    """A table with a column of prompts."""


FILE_KINDS = frozenset({PromptKind.TEXT, PromptKind.JSONL, PromptKind.SHAREGPT, PromptKind.CSV})


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """The prompts, images and lengths of a run's requests; decoding is greedy."""

    prompts: PromptKind = PromptKind.SYNTHETIC
    prompt_tokens: int = 128
    """Length of a synthetic prompt, without what the chat template adds."""
    path: str | None = None
    """The prompt file of the kinds that have one."""
    output_tokens: int = 128
    fixed_output: bool = True
    """Exactly `output_tokens`, past any end of sequence; otherwise an answer may be shorter."""
    images: tuple[StoredImage, ...] = ()
    """One goes with each request, in turn, before its text. Their bytes are in the image store of the
    machine that measures; a stored or imported plan is readable without."""
    vary_images: bool = True
    """Each request's image is unique: re-encoded as JPEG with a little noise in a corner, so that no engine
    can take an image that it has seen from a cache, as it can't take a synthetic prompt's text. Otherwise
    the images are sent as they are, again and again."""

    def __post_init__(self) -> None:
        _whole("prompt_tokens", self.prompt_tokens, 1, 1_000_000)
        if (self.prompts in FILE_KINDS) != (self.path is not None):
            kinds = ", ".join(sorted(FILE_KINDS))
            raise InputError(
                N_("Prompts of kind {kind} need a file.", kind=str(self.prompts))
                if self.path is None
                else N_("Prompts of kind {kind} don't use a file.", kind=str(self.prompts)),
                hint=N_("Kinds that need a file: {kinds}.", kinds=kinds),
            )
        self.sampling()
        self._check_images()

    def _check_images(self) -> None:
        if len(self.images) > MAX_WORKLOAD_IMAGES:
            raise InputError(
                N_("Too many images ({n}).", n=len(self.images)),
                hint=N_("Choose at most {most}. They are sent in rotation.", most=MAX_WORKLOAD_IMAGES),
            )
        if (size_bytes := sum(image.size_bytes for image in self.images)) > MAX_IMAGE_BYTES:
            raise InputError(
                N_("The images are too large in total ({size}).", size=gib(size_bytes)),
                hint=N_("Choose fewer or smaller images, up to {limit}.", limit=gib(MAX_IMAGE_BYTES)),
            )

    def sampling(self) -> Sampling:
        return Sampling(max_tokens=self.output_tokens, fixed_length=self.fixed_output)


class LoadKind(StrEnum):
    CLOSED = "closed"
    """A fixed number of requests under way, at each of `concurrencies`."""
    OPEN = "open"
    """Requests on a schedule, at each of `rates_req_per_s`."""
    SWEEP = "sweep"
    """Concurrency 1, 2, 4 … until more of it gives no more tokens a second."""


class Arrivals(StrEnum):
    CONSTANT = "constant"
    POISSON = "poisson"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The load levels that each lane goes through."""

    kind: LoadKind = LoadKind.CLOSED
    concurrencies: tuple[int, ...] = (1,)
    rates_req_per_s: tuple[float, ...] = ()
    arrivals: Arrivals = Arrivals.CONSTANT
    max_concurrency: int = 64
    """Where a sweep ends even if more would still help."""

    def __post_init__(self) -> None:
        if self.kind is LoadKind.CLOSED:
            _levels("concurrencies", self.concurrencies)
            for concurrency in self.concurrencies:
                _whole("concurrency", concurrency, 1, MAX_CONCURRENCY)
        elif self.kind is LoadKind.OPEN:
            _levels("rates", self.rates_req_per_s)
            for rate in self.rates_req_per_s:
                if not 0 < rate <= MAX_RATE_REQ_PER_S:
                    raise InputError(
                        N_("A rate can't be {rate} requests per second.", rate=f"{rate:g}"),
                        hint=N_(
                            "Choose a rate greater than 0 and at most {most}.", most=count(MAX_RATE_REQ_PER_S)
                        ),
                    )
        else:
            _whole("max_concurrency", self.max_concurrency, 2, MAX_CONCURRENCY)

    @property
    def label(self) -> str:
        """Such as `c = 1, 4` (concurrency), `c = 1 … 64` (a sweep) or `2, 4.5 req/s`."""
        match self.kind:
            case LoadKind.CLOSED:
                return f"c = {', '.join(map(str, self.concurrencies))}"
            case LoadKind.OPEN:
                return f"{', '.join(f'{rate:g}' for rate in self.rates_req_per_s)} req/s"
            case LoadKind.SWEEP:
                return f"c = 1 … {self.max_concurrency}"

    @property
    def levels(self) -> tuple[LoadLevel, ...]:
        """All levels in the order of measuring; a sweep may end before its last one."""
        match self.kind:
            case LoadKind.CLOSED:
                return tuple(LoadLevel(concurrency=c) for c in self.concurrencies)
            case LoadKind.OPEN:
                return tuple(LoadLevel(rate_req_per_s=rate) for rate in self.rates_req_per_s)
            case LoadKind.SWEEP:
                powers = (2**power for power in range(MAX_CONCURRENCY.bit_length()))
                doubled = [concurrency for concurrency in powers if concurrency < self.max_concurrency]
                return tuple(LoadLevel(concurrency=c) for c in (*doubled, self.max_concurrency))


class Isolation(StrEnum):
    """The use of the other lanes' engines while one lane is measured."""

    ISOLATED = "isolated"
    """They are idle."""
    STOPPED = "stopped"
    """Their engines are stopped, so that they hold no memory either."""
    TOGETHER = "together"
    """Every lane is measured alone and then all at once, which gives the interference factor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits that a request must meet, all of them, to count towards goodput; None is no limit."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None

    def __post_init__(self) -> None:
        given = (self.ttft_s, self.tpot_s, self.e2e_s)
        if all(limit is None for limit in given):
            raise InputError(N_("Goodput has no limit."), hint=N_("Set at least one of ttft, tpot, and e2e."))
        if any(limit is not None and not limit > 0 for limit in given):
            raise InputError(
                N_("A goodput limit must be greater than 0."), hint=N_("Set limits in seconds, such as 0.5.")
            )


LIMIT_PRESETS: Mapping[str, Limits] = {
    "chat": Limits(ttft_s=0.2, tpot_s=0.05),
    "mlperf-conversational": Limits(ttft_s=2.0, tpot_s=0.1),
    "mlperf-interactive": Limits(ttft_s=0.5, tpot_s=0.03),
    "mlperf-70b-conversational": Limits(ttft_s=2.0, tpot_s=0.2),
    "mlperf-70b-interactive": Limits(ttft_s=0.45, tpot_s=0.04),
}
"""`chat` is GuideLLM's example of a chat's limits; the others are those of MLPerf Inference's Server scenario
for Llama 3.1 8B and Llama 2 70B, which MLPerf asks of the 99th percentile."""


class SendFrom(StrEnum):
    """Which machines send the requests and take the times."""

    HERE = "here"
    ENGINE = "engine"
    """The node of each lane's engine, so that no network lies between."""
    NODES = "nodes"
    """This machine and all nodes of the cluster, for more load than one machine can send."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchPlan:
    """A whole load test. Raises InputError for what can't be measured."""

    lanes: tuple[LaneSpec, ...]
    """The first one is the baseline of comparisons."""
    workload: Workload = field(default_factory=Workload)
    load: Load = field(default_factory=Load)
    requests: int | None = None
    """Measured requests of each lane at each level; either this or `seconds`."""
    seconds: float | None = None
    """For how long new requests are sent; those under way are then awaited."""
    warmup: int = 2
    """Requests before each pass that are left out."""
    repeats: int = 1
    isolation: Isolation = Isolation.ISOLATED
    seed: int = 0
    """Of prompts, Poisson schedules and resampling."""
    limits: Limits | None = None
    workers: int | None = None
    """Processes that send the requests; None lets the machine that measures decide by its cores."""
    send_from: SendFrom = SendFrom.HERE
    title: str = ""
    id: str = field(default_factory=new_id)
    created_at: datetime = field(default_factory=utc_now)

    def __post_init__(self) -> None:
        names = [lane.name for lane in self.lanes]
        if not names or len(set(names)) != len(names):
            raise InputError(
                N_("A lane is selected twice.") if names else N_("No lane is selected."),
                hint=N_("Select one or more different lanes."),
            )
        self._check_length()
        self._check_bytes_under_way()
        _whole("warmup", self.warmup, 0, 10_000)
        _whole("repeats", self.repeats, 1, 100)
        self._check_workers()
        if self.isolation is not Isolation.ISOLATED and len(names) < 2:
            raise InputError(
                N_("Isolation “{isolation}” needs at least two lanes.", isolation=str(self.isolation)),
                hint=N_("Select two or more lanes."),
            )
        if not _TITLE.fullmatch(self.title):
            raise InputError(N_("The title is too long."), hint=N_("Use one line of up to 120 characters."))

    @property
    def label(self) -> str:
        """The title, or lanes and load in any language, such as `hf, awq · c = 1, 4` or `hf · 2 req/s`."""
        return self.title or f"{', '.join(lane.name for lane in self.lanes)} · {self.load.label}"

    def _check_workers(self) -> None:
        if self.send_from is not SendFrom.HERE and self.workload.images:
            raise InputError(
                N_("Requests with images can't be sent from nodes."), hint=N_("Send them from this machine.")
            )
        if self.send_from is SendFrom.ENGINE and self.isolation is Isolation.TOGETHER:
            raise InputError(
                N_("Lanes that run together can't be measured on the nodes of their engines."),
                hint=N_("Measure one lane at a time, or send from this machine."),
            )
        if self.workers is None:
            return
        _whole("workers", self.workers, 1, MAX_WORKERS)
        if self.workers > 1 and self.workload.images:
            raise InputError(
                N_("Requests with images can't be sent by several processes."), hint=N_("Use one worker.")
            )

    def _check_length(self) -> None:
        if (self.requests is None) == (self.seconds is None):
            raise InputError(
                N_("A point needs either a number of requests or a number of seconds."),
                hint=N_("Set exactly one of the two."),
            )
        if self.seconds is not None and not 0 < self.seconds <= MAX_SECONDS:
            raise InputError(
                N_("{key} is {value}.", key="seconds", value=f"{self.seconds:g}"),
                hint=N_("Choose a value greater than 0 and at most one day."),
            )
        if self.requests is None:
            return
        _whole("requests", self.requests, 1, MAX_REQUESTS)
        most = max(self.load.concurrencies)
        if self.load.kind is LoadKind.CLOSED and self.requests < most:
            raise InputError(
                N_("{n} requests per point can't reach concurrency {most}.", n=self.requests, most=most),
                hint=N_(
                    "Send at least {least} requests per point, preferably {better}.",
                    least=most,
                    better=4 * most,
                ),
            )

    def _check_bytes_under_way(self) -> None:
        largest = max((image.size_bytes for image in self.workload.images), default=0)
        most = max(level.concurrency or 1 for level in self.load.levels)
        if largest * most > MAX_BYTES_UNDER_WAY:
            raise InputError(
                N_(
                    "{n} concurrent requests with an image of {size} each are too much.",
                    n=count(most),
                    size=gib(largest),
                ),
                hint=N_(
                    "Choose a lower concurrency or smaller images, up to {limit} in total.",
                    limit=gib(MAX_BYTES_UNDER_WAY),
                ),
            )

    def requests_at(self, level: LoadLevel) -> int | None:
        """Measured requests at a level; a sweep sends at least twice as many as are under way."""
        if self.requests is None or self.load.kind is not LoadKind.SWEEP:
            return self.requests
        return max(self.requests, 2 * (level.concurrency or 1))


def parse_limits(text: str) -> Limits:
    """Limits as the command line takes them: `ttft=0.5,tpot=0.03` in seconds, or a preset's name."""
    if text in LIMIT_PRESETS:
        return LIMIT_PRESETS[text]
    values: dict[str, float] = {}
    for part in text.split(","):
        name, separator, number = part.partition("=")
        try:
            seconds = float(number)
        except ValueError:
            seconds = -1.0
        if name.strip() not in ("ttft", "tpot", "e2e") or not separator or not 0 < seconds < math.inf:
            raise InputError(
                N_("“{text}” is not a goodput limit.", text=part),
                hint=N_(
                    "Write limits in seconds, such as ttft=0.5,tpot=0.03,e2e=10, or use a preset: {names}.",
                    names=", ".join(LIMIT_PRESETS),
                ),
            )
        values[f"{name.strip()}_s"] = seconds
    return Limits(**values)


def parse_numbers(name: str, text: str) -> tuple[float, ...]:
    """`1, 2.5, 4` as numbers; `name` says in the error what they are."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = (math.nan,)
    if not all(map(math.isfinite, values)):
        raise InputError(
            N_("{name} must be a list of numbers, not “{text}”.", name=name, text=text),
            hint=N_("Enter a list such as 1,4,16."),
        )
    return values


def parse_whole_numbers(name: str, text: str) -> tuple[int, ...]:
    """`1, 4, 16` as whole numbers."""
    values = parse_numbers(name, text)
    if any(value % 1 for value in values):
        raise InputError(
            N_("{name} must be a list of whole numbers, not “{text}”.", name=name, text=text),
            hint=N_("Enter a list such as 1,4,16."),
        )
    return tuple(int(value) for value in values)


def _whole(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InputError(
            N_("{key} is {value}.", key=name, value=count(value)),
            hint=N_("Choose a value from {low} to {high}.", low=count(low), high=count(high)),
        )


def _levels(name: str, values: tuple[float, ...]) -> None:
    if not values or len(set(values)) != len(values):
        raise InputError(
            N_(
                "{key} has a value twice: {values}.",
                key=name,
                values=", ".join(f"{value:g}" for value in values),
            )
            if values
            else N_("{key} has no value.", key=name),
            hint=N_("Enter one or more different values."),
        )
