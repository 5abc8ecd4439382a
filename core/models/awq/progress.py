"""Progress of a quantisation, from the output of LMDeploy's `auto_awq`.

It goes over the decoder layers three times and prints a line for each layer (calibrating, smoothing) or each
linear layer (packing); without data only the last pass is left. The layers of a pass cost about the same, so
a pass advances with the layer's number. How the passes compare is only roughly known beforehand.
"""

import re
from dataclasses import dataclass

from core.i18n import N_, Text

_LOADING = 0.02
_SAVING_AT = 0.97


@dataclass(frozen=True, slots=True)
class _Pass:
    name: Text
    line: re.Pattern[str]
    share: float
    counts_on_end: bool
    """The line comes when its layer is done; packing has many lines a layer, which only say that it began."""


_CALIBRATING = re.compile(r"\.(\d+), samples: \d+")
_SMOOTHING = re.compile(r"\.(\d+) smooth weight done")
_PACKING = re.compile(r"\.(\d+)\..* weight (?:packed|skipped)")


class PassProgress:
    """Follows one quantisation line by line; used by one thread."""

    def __init__(
        self,
        layers: int,
        *,
        calibrates: bool,
        search_scale: bool,
        on_gpu: bool,
        done_before: float = 0.0,
    ) -> None:
        """`done_before` is the share of the whole work that came before LMDeploy's."""
        self._layers = layers
        self._starts_at = done_before + _LOADING
        calibrating, smoothing = _shares(calibrates, search_scale, on_gpu)
        self._passes = (
            _Pass(N_("Calibrating"), _CALIBRATING, calibrating, True),
            _Pass(N_("Smoothing"), _SMOOTHING, smoothing, True),
            _Pass(N_("Packing"), _PACKING, 1 - calibrating - smoothing, False),
        )

    def take(self, line: str) -> tuple[Text, float] | None:
        """What the line says is being done, and how much of the whole is done; None if it says nothing."""
        done = 0.0
        for step in self._passes:
            if match := step.line.search(line):
                layer = int(match[1])
                within = min(1.0, (layer + step.counts_on_end) / self._layers)
                share = self._starts_at + (done + step.share * within) * (_SAVING_AT - self._starts_at)
                stage = N_(
                    "{stage}: layer {layer} of {layers}",
                    stage=step.name,
                    layer=min(layer + 1, self._layers),
                    layers=self._layers,
                )
                return stage, share
            done += step.share
        return None


def _shares(calibrates: bool, search_scale: bool, on_gpu: bool) -> tuple[float, float]:
    """Shares of calibrating and smoothing; packing has the rest.

    Packing is many small kernels on a GPU and takes most of the time there; a CPU computes slowly in float16,
    and spends it on calibrating. Searching multiplies that by its 20 scales.
    """
    if not calibrates:
        return 0.0, 0.0
    if search_scale:
        return (0.85, 0.02) if on_gpu else (0.96, 0.01)
    return (0.3, 0.05) if on_gpu else (0.75, 0.05)
