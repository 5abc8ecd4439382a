"""What images cost, against transformers' own code."""

import random

import pytest

from tests.unit.models.test_models_vision import INTERNVL3, NARROW, QWEN2_5

pytest.importorskip("torchvision", reason="transformers' processors are not installed")

from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import (
    Qwen2VLImageProcessor,
    smart_resize,
)


def test_sizes_are_those_of_transformers_own_code():
    tiles = GotOcr2ImageProcessor(size={"height": 448, "width": 448}, crop_to_patches=True)
    limits = {
        ours: {"min_pixels": ours.min_pixels, "max_pixels": ours.max_pixels} for ours in (QWEN2_5, NARROW)
    }
    processors = {ours: Qwen2VLImageProcessor(**theirs) for ours, theirs in limits.items()}
    chance = random.Random(7)
    sizes = [(chance.randint(1, 5000), chance.randint(1, 5000)) for _ in range(400)]
    sizes += [(448 * a, 448 * b) for a in range(1, 5) for b in range(1, 5)]
    for width, height in sizes:
        count = tiles.get_number_of_image_patches(height, width)
        assert INTERNVL3.cost(width, height).tokens == count * 256 + 2, (width, height)
        for ours, processor in processors.items():
            cost = ours.cost(width, height)
            if cost is None:
                with pytest.raises(ValueError, match="aspect ratio"):
                    smart_resize(height, width)
                continue
            assert (cost.height_px, cost.width_px) == smart_resize(height, width, 28, **limits[ours])
            assert cost.tokens == processor.get_number_of_image_patches(height, width, {}) // 4 + 2
