"""The weights of a lane as its engine holds them in memory."""

from pathlib import Path

from core.domain.specs import EngineKind, LaneSpec, Weights
from core.errors import InputError
from core.models.checkpoint import read_weights
from core.models.gguf_header import read_gguf_header
from core.models.weight_files import WeightFacts

_BYTES_16_BIT = 2
_BYTES_OF_DTYPE = {"float32": 4, "float16": 2, "bfloat16": 2}
_GGUF_BYTES = _BYTES_OF_DTYPE["float32"]
"""What transformers unpacks a GGUF file's weights to, unless the lane names a dtype."""


def lane_weight_bytes(lane: LaneSpec) -> int | None:
    """Over all GPUs that the engine spans. None for remote lanes, and for files that can't be read here.

    Reads file headers, which need none of the sizes in config.json.
    """
    path = lane.model.path(lane.weights) if lane.model else None
    if path is None:
        return None
    try:
        if lane.weights is Weights.GGUF:
            return gguf_weight_bytes(Path(path).expanduser(), lane.settings.dtype)
        return loaded_weight_bytes(read_weights(path), lane.kind, lane.settings.dtype)
    except InputError:
        return None


def gguf_weight_bytes(path: Path, dtype: str) -> int:
    """A GGUF file's weights once transformers has unpacked them. Raises InputError (`model-unreadable`)."""
    return read_gguf_header(path).parameters * _BYTES_OF_DTYPE.get(dtype, _GGUF_BYTES)


def loaded_weight_bytes(weights: WeightFacts, kind: EngineKind, dtype: str) -> int:
    """A checkpoint's weights in an engine's memory; LMDeploy computes in 16 bits only."""
    if weights.parameters is None or weights.quantized is not None:
        return weights.size_bytes
    if kind is not EngineKind.TRANSFORMERS:
        return weights.parameters * _BYTES_16_BIT
    return weights.parameters * _BYTES_OF_DTYPE[dtype] if dtype in _BYTES_OF_DTYPE else weights.size_bytes
