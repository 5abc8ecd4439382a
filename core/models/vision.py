"""Vision models: what their images cost, and which engines serve them.

Read from a checkpoint's config.json and its processor's files; loads no weights and no engine library. The
launch table and everything that offers lanes for images go by this.

The cost of an image is its size after preprocessing, and the tokens that stand for it. Each class repeats
what transformers' processor of that model family computes (5.23; the same for LMDeploy 0.18, which calls
those processors). A cost is exact for the checkpoint's own preprocessing; a server that was told other limits
takes others.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from core.config import VISION_DEMO_NAME
from core.domain.specs import EngineKind, LaneSpec, Weights
from core.domain.turns import ErrorInfo
from core.errors import InputError
from core.i18n import N_, Text
from core.models.checkpoint import checkpoint_folder, lmdeploy_support
from core.models.model_config import read_config, read_json

MARKER_TOKENS = 2
"""A begin and an end token around each image (Qwen2-VL's `<|vision_start|>`, InternVL's `<img>`)."""
_MOST_UNEVEN = 200
"""The ratio of the sides above which Qwen2-VL's processor refuses an image."""
CHAT_TEMPLATE_FILE = "lmdeploy_chat_template.json"
"""A `ChatTemplateConfig` of LMDeploy that a checkpoint may bring along."""
_LMDEPLOY_TURBOMIND = frozenset({EngineKind.TURBOMIND, EngineKind.AWQ})
_NOT_IN_TRANSFORMERS = frozenset(
    {"InternVLChatModel", "MiniCPMV", "Phi3VForCausalLM", "LlavaLlamaForCausalLM", "LlavaMistralForCausalLM"}
)
"""Architectures whose checkpoints bring code of their own, which `transformers serve` doesn't take."""
_LLAVA = "LlavaForConditionalGeneration"
_ENGINE_NAMES = {
    EngineKind.TRANSFORMERS: "transformers",
    EngineKind.TURBOMIND: "TurboMind",
    EngineKind.AWQ: "TurboMind",
    EngineKind.PYTORCH: "LMDeploy's PyTorch engine",
}


@dataclass(frozen=True, slots=True)
class ImageCost:
    """One image as the model is given it."""

    width_px: int
    height_px: int
    """After scaling and cropping."""
    tokens: int
    """Its part of the prompt, with the marker tokens around it."""


class Preprocessing(Protocol):
    """One checkpoint's preprocessing of images."""

    def cost(self, width_px: int, height_px: int) -> ImageCost | None:
        """The cost of an image of that size; None if the model's processor refuses the shape."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedSize:
    """LLaVA: every image is scaled and cropped to one size, and each patch becomes a token.

    Source: `transformers.models.llava.processing_llava.LlavaProcessor`; CLIP's class token is dropped by the
    select strategy `default` and kept by `full`.
    """

    width_px: int
    height_px: int
    patch_size: int
    extra_tokens: int = 0
    """Class tokens that are kept."""

    def cost(self, width_px: int, height_px: int) -> ImageCost | None:  # noqa: ARG002 - any size costs the same
        patches = (self.width_px // self.patch_size) * (self.height_px // self.patch_size)
        return ImageCost(self.width_px, self.height_px, patches + self.extra_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeResolution:
    """Qwen2-VL and Qwen2.5-VL: about the image's own size, in whole blocks of merged patches.

    Source: `smart_resize` in `transformers.models.qwen2_vl.image_processing_qwen2_vl`: sides rounded to
    multiples of patch · merge, scaled so that their product stays within the limits; a token a block.
    """

    patch_size: int
    merge_size: int
    min_pixels: int
    max_pixels: int

    def cost(self, width_px: int, height_px: int) -> ImageCost | None:
        if max(width_px, height_px) > _MOST_UNEVEN * min(width_px, height_px):
            return None
        block = self.patch_size * self.merge_size
        width, height = (round(side / block) * block for side in (width_px, height_px))
        if width * height > self.max_pixels:
            shrink = math.sqrt(width_px * height_px / self.max_pixels)
            width, height = (
                max(block, math.floor(side / shrink / block) * block) for side in (width_px, height_px)
            )
        elif width * height < self.min_pixels:
            grow = math.sqrt(self.min_pixels / (width_px * height_px))
            width, height = (math.ceil(side * grow / block) * block for side in (width_px, height_px))
        return ImageCost(width, height, (width // block) * (height // block) + MARKER_TOKENS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiles:
    """InternVL: a grid of square tiles with the nearest aspect ratio, and a thumbnail if they are several.

    Source: `get_optimal_tiled_canvas` and `crop_image_to_patches` in
    `transformers.models.got_ocr2.image_processing_got_ocr2`, which InternVL's processor calls.
    """

    tile_width_px: int
    tile_height_px: int
    min_tiles: int
    max_tiles: int
    tokens_per_tile: int

    def cost(self, width_px: int, height_px: int) -> ImageCost | None:
        columns, rows = self._grid(width_px, height_px)
        tiles = columns * rows
        if tiles > 1:
            tiles += 1
        return ImageCost(
            columns * self.tile_width_px,
            rows * self.tile_height_px,
            tiles * self.tokens_per_tile + MARKER_TOKENS,
        )

    def _grid(self, width_px: int, height_px: int) -> tuple[int, int]:
        """(columns, rows); of grids that fit equally well, the largest one that the image half fills."""
        sides = range(1, self.max_tiles + 1)
        grids = [
            (columns, rows)
            for columns in sides
            for rows in sides
            if self.min_tiles <= columns * rows <= self.max_tiles
        ]
        grids.sort(key=lambda grid: grid[0] * grid[1])
        best, smallest_difference = (1, 1), math.inf
        for columns, rows in grids:
            difference = abs(width_px / height_px - columns / rows)
            covered = self.tile_width_px * self.tile_height_px * columns * rows
            if difference < smallest_difference:
                best, smallest_difference = (columns, rows), difference
            elif difference == smallest_difference and width_px * height_px > 0.5 * covered:
                best = (columns, rows)
        return best


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionModel:
    """The facts in a checkpoint's files about the images it takes."""

    architecture: str
    has_common_tower: bool = True
    """False for a LLaVA whose vision tower LMDeploy doesn't build."""
    lmdeploy_chat_template: str | None
    """What LMDeploy's `--chat-template` needs: a file, or a template's name; None to let it find its own."""
    context_tokens: int | None
    """The longest context that the model was made for; None if its config names none."""
    preprocessing: Preprocessing | None = None
    """None for an architecture whose arithmetic is not known here."""

    @property
    def served_by(self) -> frozenset[EngineKind]:
        """The engines that serve it, by the tables of the LMDeploy in LMDyno's environment."""
        return self.engines(None)

    def engines(self, python: str | None) -> frozenset[EngineKind]:
        """The engines that serve it, where LMDeploy is the one behind that interpreter.

        Without its tables every engine counts, so that LMDeploy itself has the last word.
        """
        kinds = set() if self.architecture in _NOT_IN_TRANSFORMERS else {EngineKind.TRANSFORMERS}
        support = lmdeploy_support(python)
        if not self.has_common_tower:
            return frozenset(kinds)
        if support is None or self.architecture in support.turbomind:
            kinds |= _LMDEPLOY_TURBOMIND
        if support is None or self.architecture in support.pytorch:
            kinds.add(EngineKind.PYTORCH)
        return frozenset(kinds)

    def cost(self, width_px: int, height_px: int) -> ImageCost | None:
        """Return what an image of that size becomes; None where that is not known."""
        return self.preprocessing.cost(width_px, height_px) if self.preprocessing else None


def vision_of(checkpoint: str) -> VisionModel | None:
    """The vision side of a checkpoint; None for a text-only one, and for one that can't be read here.

    Cheap to call often: files are read again only when they change. Thread-safe.
    """
    try:
        return _vision_of(checkpoint)
    except InputError:
        return None


def refusal(lane: LaneSpec) -> ErrorInfo | None:
    """Return why the lane takes no images and what to do instead; None if nothing speaks against sending
    them.

    Nothing is known of a checkpoint that is not on this machine, and of a server that nobody described.
    """
    if lane.endpoint:
        return _TEXT_ONLY_ENDPOINT if lane.endpoint.vision is False else None
    if lane.model is None:
        return None
    if lane.weights is Weights.GGUF:
        return _text_only(N_("The GGUF weights of {model} have no vision part.", model=lane.model.name))
    try:
        vision = _vision_of(lane.model.path(lane.weights) or lane.model.checkpoint)
    except InputError:
        return None
    if vision is None:
        return _text_only(N_("{model} is a text-only model.", model=lane.model.name))
    return _unless_served(lane, vision)


def not_served(lane: LaneSpec) -> ErrorInfo | None:
    """Return why the lane's engine can't serve its vision model at all; None for any other lane."""
    vision = lane_vision(lane)
    return _unless_served(lane, vision) if vision else None


def is_vision(lane: LaneSpec) -> bool:
    """Whether the lane is one for images, by its checkpoint or by what was written about its endpoint."""
    if lane.endpoint:
        return lane.endpoint.vision is True
    return lane_vision(lane) is not None


def is_for_images(lane: LaneSpec) -> bool:
    """Whether the lane is known to see. An endpoint that does not say so may see too."""
    # The demo model's own files, which `is_vision` reads, are there only once it is prepared.
    is_demo = lane.model is not None and lane.model.name == VISION_DEMO_NAME
    return is_demo or is_vision(lane)


def lane_vision(lane: LaneSpec) -> VisionModel | None:
    """The vision side of what the lane loads; None as for `vision_of`, for a GGUF form and for endpoints."""
    if lane.model is None or lane.weights is Weights.GGUF:
        return None
    return vision_of(lane.model.path(lane.weights) or lane.model.checkpoint)


def _unless_served(lane: LaneSpec, vision: VisionModel) -> ErrorInfo | None:
    serving = vision.engines(lane.settings.python)
    if lane.kind in serving:
        return None
    others = [f'"{kind}"' for kind in EngineKind if kind in serving and kind is not EngineKind.AWQ]
    if others:
        hint = N_("Use another engine for the lane: {engines}.", engines=", ".join(others))
    else:
        hint = N_(
            "Use a version of the model that transformers supports, such as one of the llava-hf checkpoints."
        )
    message = N_(
        "{engine} doesn't support {architecture}.",
        engine=_ENGINE_NAMES[lane.kind],
        architecture=vision.architecture,
    )
    return ErrorInfo("engine-without-vision", message, hint)


def _text_only(message: Text) -> ErrorInfo:
    return ErrorInfo("text-only", message, N_("Choose a lane with a vision model, or ask without images."))


_TEXT_ONLY_ENDPOINT = ErrorInfo(
    "text-only",
    N_("The lanes file says that this endpoint can't see images."),
    N_("Choose another lane. If this is wrong, remove `vision = false` from the lane."),
)
_FILES = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "chat_template.json",
    "chat_template.jinja",
    CHAT_TEMPLATE_FILE,
)


def _vision_of(checkpoint: str) -> VisionModel | None:
    """Like `vision_of`, but raises InputError for a checkpoint that can't be read here."""
    folder = checkpoint_folder(checkpoint)
    return _read(folder, tuple(_changed_ns(folder / name) for name in _FILES))


def _changed_ns(file: Path) -> int | None:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return None


@lru_cache(maxsize=64)
def _read(folder: Path, _changed: tuple[int | None, ...]) -> VisionModel | None:
    config = read_config(folder)
    architecture = config.architecture
    if architecture not in _NOT_IN_TRANSFORMERS and not isinstance(config.values.get("vision_config"), dict):
        return None
    tower = _section(config.values, "vision_config").get("model_type", "clip_vision_model")
    return VisionModel(
        architecture=architecture,
        # LMDeploy's LLaVA builds no other tower (`pytorch/models/llava.py`).
        has_common_tower=architecture != _LLAVA or tower == "clip_vision_model",
        lmdeploy_chat_template=_chat_template(folder, architecture),
        context_tokens=config.whole("max_position_embeddings"),
        preprocessing=_preprocessing(folder, architecture, config.values),
    )


def _chat_template(folder: Path, architecture: str) -> str | None:
    """Return what LMDeploy must be told, since it knows LLaVA-1.5 by its folder's name alone.

    The checkpoint's own template, which it takes otherwise, puts out nothing for the plain text it is given.
    """
    own = folder / CHAT_TEMPLATE_FILE
    if own.is_file():
        return str(own)
    if architecture != _LLAVA:
        return None
    template = _hub_template(folder)
    return "llava-v1" if template is None or ("USER:" in template and "ASSISTANT:" in template) else None


def _hub_template(folder: Path) -> str | None:
    """The checkpoint's own chat template; None if it has none."""
    plain = folder / "chat_template.jinja"
    if plain.is_file():
        return plain.read_text("utf-8", "replace")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        template = _optional_json(folder / name).get("chat_template")
        if isinstance(template, str):
            return template
    return None


def _preprocessing(folder: Path, architecture: str, config: Mapping[str, Any]) -> Preprocessing | None:
    """Made from what the files say; None if they lack what the arithmetic needs."""
    make = _PREPROCESSING.get(architecture)
    processor = _optional_json(folder / "processor_config.json")
    # Newer checkpoints nest the image processor's settings, and transformers prefers those.
    images = _section(processor, "image_processor") or _optional_json(folder / "preprocessor_config.json")
    try:
        return make(config, processor, images) if make else None
    except (LookupError, TypeError, ValueError, ZeroDivisionError):
        return None


def _llava(config: Mapping[str, Any], _processor: Mapping[str, Any], images: Mapping[str, Any]) -> FixedSize:
    vision = _section(config, "vision_config")
    # What the config leaves out is CLIP ViT-L/14 at 336 pixels (`LlavaConfig`).
    side = int(vision.get("image_size", 336))
    size = (images.get("do_center_crop", True) and images.get("crop_size")) or images.get("size") or {}
    size = {"height": size, "width": size} if isinstance(size, int) else size
    has_class_token = "siglip" not in str(vision.get("model_type", "clip"))
    keeps_it = config.get("vision_feature_select_strategy", "default") == "full"
    return FixedSize(
        width_px=int(size.get("width", side)),
        height_px=int(size.get("height", side)),
        patch_size=int(vision.get("patch_size", 14)),
        extra_tokens=int(has_class_token) - int(not keeps_it),
    )


def _qwen_vl(
    _config: Mapping[str, Any], _processor: Mapping[str, Any], images: Mapping[str, Any]
) -> NativeResolution:
    size = _section(images, "size")
    return NativeResolution(
        patch_size=int(images.get("patch_size", 14)),
        merge_size=int(images.get("merge_size", 2)),
        min_pixels=int(images.get("min_pixels") or size.get("shortest_edge") or 56 * 56),
        max_pixels=int(images.get("max_pixels") or size.get("longest_edge") or 28 * 28 * 1280),
    )


def _internvl(_config: Mapping[str, Any], processor: Mapping[str, Any], images: Mapping[str, Any]) -> Tiles:
    size = _section(images, "size")
    return Tiles(
        tile_width_px=int(size["width"]),
        tile_height_px=int(size["height"]),
        min_tiles=int(images.get("min_patches") or 1),
        max_tiles=int(images.get("max_patches") or 12),
        tokens_per_tile=int(processor.get("image_seq_length", 256)),
    )


_PREPROCESSING: Mapping[str, Callable[..., Preprocessing]] = {
    _LLAVA: _llava,
    "Qwen2VLForConditionalGeneration": _qwen_vl,
    "Qwen2_5_VLForConditionalGeneration": _qwen_vl,
    "InternVLForConditionalGeneration": _internvl,
}


def _optional_json(file: Path) -> Mapping[str, Any]:
    return read_json(file) if file.is_file() else {}


def _section(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    inner = values.get(name)
    return inner if isinstance(inner, dict) else {}
