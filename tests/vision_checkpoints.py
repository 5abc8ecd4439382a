"""Folders with the small files of a vision checkpoint, without weights: what decides about images."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TEXT_ONLY: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "max_position_embeddings": 2048,
}
LLAVA: Mapping[str, Any] = {
    "architectures": ["LlavaForConditionalGeneration"],
    "model_type": "llava",
    "vision_config": {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14},
    "text_config": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "max_position_embeddings": 4096,
    },
    "vision_feature_select_strategy": "default",
}
LLAVA_FILES: Mapping[str, Any] = {
    "preprocessor_config.json": {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 336},
        "crop_size": {"height": 336, "width": 336},
    },
    "processor_config.json": {
        "processor_class": "LlavaProcessor",
        "patch_size": 14,
        "num_additional_image_tokens": 1,
        "vision_feature_select_strategy": "default",
    },
}
QWEN: Mapping[str, Any] = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "model_type": "qwen2_5_vl",
    "max_position_embeddings": 128000,
    "vision_config": {"patch_size": 14, "spatial_merge_size": 2},
}
QWEN_FILES: Mapping[str, Any] = {
    "preprocessor_config.json": {
        "min_pixels": 3136,
        "max_pixels": 12845056,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
    }
}
INTERNVL: Mapping[str, Any] = {
    "architectures": ["InternVLForConditionalGeneration"],
    "model_type": "internvl",
    "vision_config": {"image_size": [448, 448], "patch_size": [14, 14]},
    "text_config": {"model_type": "qwen2", "max_position_embeddings": 32768},
}
INTERNVL_FILES: Mapping[str, Any] = {
    "preprocessor_config.json": {
        "crop_to_patches": False,
        "min_patches": 1,
        "max_patches": 12,
        "size": {"height": 448, "width": 448},
    },
    "processor_config.json": {"processor_class": "InternVLProcessor", "image_seq_length": 256},
}


def write_checkpoint(folder: Path, config: Mapping[str, Any], files: Mapping[str, Any] | None = None) -> str:
    """The folder's path as a model spec names it; `files` are further JSON files by name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {"config.json": config, **(files or {})}.items():
        (folder / name).write_text(json.dumps(content), "utf-8")
    return str(folder)
