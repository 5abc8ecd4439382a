"""Specifications of what is compared: models, the engines that serve them, and the lanes that put both side
by side.

A lane is one column: engine + model + settings. A local lane owns one engine process, known by the lane's
name; an `endpoint` lane is a server that somebody else runs.

The values that an engine's settings may have are one table, with hints for people, for the lanes file, the
command line and the controls on a page.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from core.i18n import N_, Message

DEVICES = ("cpu", "cuda")
QUANT_POLICIES = (0, 4, 8)
_TRANSFORMERS_DTYPES = ("auto", "float16", "bfloat16", "float32")
_LMDEPLOY_DTYPES = ("auto", "float16", "bfloat16")


class EngineKind(StrEnum):
    """The kinds of engines; each local kind is a row of `core.engines.launch.table`."""

    TRANSFORMERS = "transformers"
    TURBOMIND = "turbomind"
    AWQ = "awq"
    PYTORCH = "pytorch"
    ENDPOINT = "endpoint"


class Weights(StrEnum):
    """The form of a model that a lane loads; all forms come from the same checkpoint."""

    CHECKPOINT = "checkpoint"
    GGUF = "gguf"
    AWQ = "awq"


class Dialect(StrEnum):
    """A server's way of streaming, and the sampling fields it takes (`core.chat_api.dialects`)."""

    LMDEPLOY = "lmdeploy"
    TRANSFORMERS = "transformers"
    VLLM = "vllm"
    SGLANG = "sglang"
    LLAMACPP = "llamacpp"
    GENERIC = "generic"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One Hugging Face checkpoint and what was derived from it."""

    name: str
    checkpoint: str
    """A folder, or a hub id such as `Qwen/Qwen2.5-7B-Instruct`."""
    gguf: str | None = None
    """A packed GGUF file of the same weights."""
    awq: str | None = None
    """A folder with the W4A16 (AWQ) form of the same weights."""

    def path(self, weights: Weights) -> str | None:
        """Return where the given form is; None if the model has no such form."""
        return {
            Weights.CHECKPOINT: self.checkpoint,
            Weights.GGUF: self.gguf,
            Weights.AWQ: self.awq,
        }[weights]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Settings of a local engine, under the engines' own names; None leaves the engine's default.

    Which of them a kind takes says `SETTINGS_OF`, which values are allowed `core.domain.specs`.
    """

    device: str | None = None
    """`cpu` or `cuda`; None is a GPU where there is one."""
    devices: tuple[int, ...] | None = None
    """GPU indices to pin the engine to; None places it by free memory."""
    dtype: str = "auto"
    """`auto`, `float16`, `bfloat16` or `float32`."""
    python: str | None = None
    """The engine's own Python interpreter, for stacks that can't share one environment."""
    trust_remote_code: bool = False
    """Run Python code that comes with the checkpoint; only for publishers that you trust."""
    start_timeout_s: float = 600.0
    """Seconds until an engine that is starting counts as failed."""
    continuous_batching: bool = False
    """transformers: serve several requests at once instead of one after another."""
    session_len: int = 4096
    """LMDeploy: context length in tokens, prompt and answer together."""
    max_batch_size: int = 64
    """LMDeploy: requests that run at once; further ones wait."""
    cache_max_entry_count: float = 0.4
    """LMDeploy: share of the GPU memory still free after loading the weights that the KV cache takes."""
    quant_policy: int = 0
    """LMDeploy: bits of the KV cache, 8 or 4; 0 keeps the dtype."""
    tp: int = 1
    """LMDeploy: GPUs that one engine spans (tensor parallel size)."""
    replicas: int = 1
    """LMDeploy: servers of the same model, each on GPUs of its own, behind LMDeploy's proxy."""
    enable_prefix_caching: bool = False
    """LMDeploy: keep the KV cache of prompts' beginnings, for later prompts that begin alike."""

    @property
    def requests_at_once(self) -> int:
        """LMDeploy: requests that all replicas together answer at once."""
        return self.max_batch_size * self.replicas

    @property
    def gpu_count(self) -> int:
        """GPUs that the lane takes: those of all its replicas, and no fewer than it is pinned to."""
        return max(self.tp * self.replicas, len(self.devices or ()), 1)


_ANY_ENGINE = frozenset({"devices", "dtype", "python", "trust_remote_code", "start_timeout_s"})
_LMDEPLOY = _ANY_ENGINE | {
    "session_len",
    "max_batch_size",
    "cache_max_entry_count",
    "quant_policy",
    "tp",
    "replicas",
    "enable_prefix_caching",
}

SETTINGS_OF: Mapping[EngineKind, frozenset[str]] = {
    EngineKind.TRANSFORMERS: _ANY_ENGINE | {"device", "continuous_batching"},
    EngineKind.TURBOMIND: _LMDEPLOY,
    EngineKind.AWQ: _LMDEPLOY,
    EngineKind.PYTORCH: _LMDEPLOY,
    EngineKind.ENDPOINT: frozenset(),
}
"""The fields of `EngineSettings` that each kind takes."""

FILE_ONLY_SETTINGS = frozenset({"python", "trust_remote_code"})
"""Settings that decide which code runs on this machine: only the lanes file gives them, never a web page."""

WEIGHTS_OF: Mapping[EngineKind, tuple[Weights, ...]] = {
    EngineKind.TRANSFORMERS: (Weights.CHECKPOINT, Weights.GGUF),
    EngineKind.TURBOMIND: (Weights.CHECKPOINT,),
    EngineKind.AWQ: (Weights.AWQ,),
    EngineKind.PYTORCH: (Weights.CHECKPOINT,),
    EngineKind.ENDPOINT: (),
}
"""The forms of a model that each kind loads; the first is the default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestOptions:
    """Fields that are sent to one server beside, or instead of, those of its dialect."""

    headers: tuple[tuple[str, str], ...] = ()
    """More HTTP headers. They are kept with results: a value that begins with $ names a key instead of
    holding one."""
    extra_body: str = ""
    """More fields of the request's body, as a JSON object."""
    max_tokens_name: str = "max_tokens"
    """What the server calls the limit of the answer's length, such as `max_completion_tokens`."""
    leave_out: tuple[str, ...] = ()
    """Fields that the server doesn't take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """The time limits of one lane's requests; None takes the usual time."""

    first_token_s: float | None = None
    """Until the first byte of an answer, and then until its first text."""
    stall_s: float | None = None
    """Between two pieces of an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointSpec:
    """A server that somebody else runs."""

    url: str
    """Base URL with the version path, such as `http://gpu-host:23333/v1`."""
    model: str | None = None
    """The id the server knows the model by; None takes the first that it lists."""
    dialect: Dialect = Dialect.GENERIC
    """How the server streams, and which sampling fields it takes."""
    api_key_name: str | None = None
    """Name of the key, such as `LMDYNO_KEY_LAB` (see `core.config.endpoints`). The key is stored nowhere."""
    vision: bool | None = None
    """Whether its model takes images; None if nobody said, in which case the server is asked."""
    request: RequestOptions = field(default_factory=RequestOptions)
    tokenizer: str | None = None
    """A folder with a tokenizer.json of the same model, to count tokens where the server sends no usage, and
    to tell with dialect `generic` whether its usage counts the end-of-sequence token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSpec:
    """One column of a comparison. Either `model` (a local engine) or `endpoint` is set."""

    name: str
    kind: EngineKind
    """The engine that answers."""
    model: ModelSpec | None = None
    """The model that a local engine loads, by its name in the lanes file."""
    weights: Weights = Weights.CHECKPOINT
    """Which form of the model a local engine loads."""
    settings: EngineSettings = field(default_factory=EngineSettings)
    endpoint: EndpointSpec | None = None
    patience: Patience = field(default_factory=Patience)
    node: str | None = None
    """The node of the Ray cluster that its engine runs on; None leaves it to LMDyno."""

    @property
    def is_local(self) -> bool:
        """Whether LMDyno runs its engine, on this machine or on a node of the cluster."""
        return self.endpoint is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """The server that a lane's requests go to right now."""

    url: str
    model: str
    dialect: Dialect
    api_key: str | None = field(default=None, repr=False)
    version: str | None = None
    """What runs there, such as `transformers 5.23.0, torch 2.12.1`."""
    device: str | None = None
    """The device that the engine works on (`cpu`, `cuda:0`, `cuda:0,1`); None for remote servers."""
    node: str | None = None
    """The node of the Ray cluster that the engine runs on; None for this machine and for remote servers."""
    request: RequestOptions = field(default_factory=RequestOptions, repr=False)
    """Its headers may hold keys."""
    patience: Patience = field(default_factory=Patience)
    tokenizer: str | None = None
    """A folder with the model's tokenizer.json, for a server that sends no usage."""
    log_file: str | None = None
    """What a local engine writes; None for remote servers."""

    @property
    def devices(self) -> frozenset[str]:
        """The devices that it keeps busy: `cuda:0,1` is two, those of a node begin with `NODE/`.

        None for a remote server.
        """
        if self.device is None:
            return frozenset()
        kind, _, indices = self.device.partition(":")
        where = f"{self.node}/" if self.node else ""
        return frozenset(
            f"{where}{kind}:{index.strip()}" if index else f"{where}{kind}" for index in indices.split(",")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """The Ray cluster whose nodes run engines beside this machine."""

    address: str
    """`HOST:PORT` of Ray's head, or `auto` for the cluster that this machine belongs to."""
    home: str | None = None
    """The folder on each node that its engines' files go to, in a subfolder named after the node; None takes
    `nodes` below the path of LMDYNO_HOME."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A check of one setting's values, and the hint for a value that fails it."""

    accepts: Callable[[object], bool]
    hint: Message


def dtypes(kind: EngineKind) -> tuple[str, ...]:
    """The dtypes that a kind computes in; LMDeploy has no float32."""
    return _TRANSFORMERS_DTYPES if kind is EngineKind.TRANSFORMERS else _LMDEPLOY_DTYPES


def rule(kind: EngineKind, setting: str) -> Rule:
    """The rule for a setting that `SETTINGS_OF[kind]` contains."""
    return one_of(dtypes(kind)) if setting == "dtype" else _RULES[setting]


def conflict(settings: EngineSettings) -> tuple[str, Message] | None:
    """Settings that contradict each other: the one to change, and what is allowed; else None."""
    pinned = settings.devices
    if pinned is not None and settings.replicas > 1 and settings.tp * settings.replicas != len(pinned):
        return "replicas", N_("Allowed: as many as make {n} devices with tp each.", n=len(pinned))
    if pinned is not None and settings.tp > len(pinned):
        return "tp", N_("Allowed: at most {n}, the number of devices.", n=len(pinned))
    return None


def one_of(values: tuple[object, ...]) -> Rule:
    """Exactly one of the values, type included: `true` is not 1."""
    return Rule(
        lambda given: any(type(given) is type(value) and given == value for value in values),
        N_(
            "Allowed: {values}.",
            values=", ".join(f'"{value}"' if isinstance(value, str) else str(value) for value in values),
        ),
    )


def _whole(low: int, high: int) -> Rule:
    return Rule(
        lambda given: type(given) is int and low <= given <= high,
        N_("Allowed: a whole number from {low} to {high}.", low=low, high=high),
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _is_share(value: object) -> bool:
    number = _number(value)
    return number is not None and 0 < number < 1


def _is_timeout(value: object) -> bool:
    number = _number(value)
    return number is not None and 1 <= number <= 86_400


def _is_device_list(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and 0 < len(value) == len(set(value))
        and all(type(index) is int and 0 <= index < 64 for index in value)
    )


TIMEOUT = Rule(_is_timeout, N_("Allowed: a number of seconds from 1 to 86400."))
_FLAG = Rule(lambda given: isinstance(given, bool), N_("Allowed: true or false."))

_RULES: Mapping[str, Rule] = {
    "device": one_of(DEVICES),
    "devices": Rule(_is_device_list, N_("Allowed: a list of different GPU indices, such as [0] or [0, 1].")),
    "python": Rule(
        lambda given: isinstance(given, str) and given != "",
        N_("Allowed: the path of a Python interpreter, in quotes."),
    ),
    "trust_remote_code": _FLAG,
    "start_timeout_s": TIMEOUT,
    "continuous_batching": _FLAG,
    "session_len": _whole(1, 10_000_000),
    "max_batch_size": _whole(1, 4096),
    # LMDeploy takes 1 and more for a block count and then aborts in its C++ part.
    "cache_max_entry_count": Rule(_is_share, N_("Allowed: a number greater than 0 and less than 1.")),
    "quant_policy": one_of(QUANT_POLICIES),
    "tp": _whole(1, 64),
    "replicas": _whole(1, 64),
    "enable_prefix_caching": _FLAG,
}
