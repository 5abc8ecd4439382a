"""Sampling settings, which decide on the next token and the end of an answer, in one engine-neutral form.

A dialect (`core.chat_api.dialects`) translates it so that it means the same to every engine.
"""

from dataclasses import dataclass

from core.errors import InputError
from core.i18n import N_


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling settings of one request; raises InputError for values no engine accepts."""

    temperature: float = 0.0
    """0 is greedy: the most likely token each time; then top_p, top_k and seed have no effect."""
    top_p: float = 1.0
    top_k: int = 0
    """0 leaves all tokens in."""
    repetition_penalty: float = 1.0
    seed: int | None = None
    max_tokens: int = 512
    fixed_length: bool = False
    """Generate exactly `max_tokens`, past any end-of-sequence token."""

    def __post_init__(self) -> None:
        _within("temperature", self.temperature, 0, 2)
        if not 0 < self.top_p <= 1:
            raise InputError(
                N_("{key} is {value}.", key="top_p", value=self.top_p),
                hint=N_("Choose a value greater than 0 and at most 1."),
            )
        _within("top_k", self.top_k, 0, 1000)
        _within("repetition_penalty", self.repetition_penalty, 0.5, 2)
        _within("max_tokens", self.max_tokens, 1, 131_072)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


def _within(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InputError(
            N_("{key} is {value}.", key=name, value=value),
            hint=N_("Choose a value from {low} to {high}.", low=f"{low:g}", high=f"{high:g}"),
        )
