"""The cost of an image for a vision model: its size after preprocessing, and the tokens that stand for it.

Arithmetic only. Each class repeats what transformers' processor of that model family computes (5.23; the same
for LMDeploy 0.18, which calls those processors). A cost is exact for the checkpoint's own preprocessing; a
server that was told other limits takes others.
"""

import math
from dataclasses import dataclass
from typing import Protocol

MARKER_TOKENS = 2
"""A begin and an end token around each image (Qwen2-VL's `<|vision_start|>`, InternVL's `<img>`)."""
_MOST_UNEVEN = 200
"""The ratio of the sides above which Qwen2-VL's processor refuses an image."""


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
