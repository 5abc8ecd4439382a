"""Values that the settings of an engine may have, with a hint for people.

One table for the lanes file, the command line and the controls on a page. `SETTINGS_OF` in
`core.domain.specs` says which kind takes which setting at all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from core.domain.specs import EngineKind, EngineSettings
from core.i18n import N_, Message

DEVICES = ("cpu", "cuda")
QUANT_POLICIES = (0, 4, 8)
_TRANSFORMERS_DTYPES = ("auto", "float16", "bfloat16", "float32")
_LMDEPLOY_DTYPES = ("auto", "float16", "bfloat16")


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
