import json
import struct
from pathlib import Path

import pytest

from core.errors import InputError
from core.models.checkpoint import checkpoint_folder, read_checkpoint, read_safetensors_header

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 2,
    "hidden_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 512,
    "vocab_size": 1000,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "max_position_embeddings": 2048,
}
WIDTH = {"F16": 2, "I32": 4}


def write_safetensors(file: Path, tensors: dict[str, tuple[str, list[int]]]) -> None:
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape) in tensors.items():
        size = WIDTH[dtype]
        for side in shape:
            size *= side
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + bytes(offset))


def checkpoint(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    config = {key: value for key, value in {**CONFIG, **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / "model.safetensors", {"a.weight": ("F16", [10, 20]), "b.bias": ("F16", [7])})
    return folder


def test_the_sizes_of_a_llama_checkpoint(tmp_path: Path) -> None:
    facts = read_checkpoint(checkpoint(tmp_path))

    assert (facts.architecture, facts.layers, facts.heads, facts.kv_heads) == (
        "LlamaForCausalLM",
        2,
        4,
        2,
    )
    assert facts.head_dim == 64
    assert facts.dtype == "float16"
    assert facts.parameters == 207
    assert facts.weight_bytes == 414
    assert facts.quantization is None
    assert facts.group_size is None
    assert facts.linear_in_features == (256, 512)
    assert facts.embedding_parameters == 2 * 1000 * 256
    assert (facts.is_mla, facts.is_hybrid) == (False, False)


def test_awq_weights_count_as_the_values_they_pack(tmp_path: Path) -> None:
    quantization = {"quant_method": "awq", "bits": 4, "group_size": 128}
    folder = checkpoint(tmp_path, quantization_config=quantization)
    write_safetensors(
        folder / "model.safetensors",
        {
            "q.qweight": ("I32", [256, 32]),
            "q.qzeros": ("I32", [2, 32]),
            "q.scales": ("F16", [2, 256]),
        },
    )

    facts = read_checkpoint(folder)

    assert (facts.quantization, facts.group_size) == ("awq", 128)
    assert facts.parameters == 256 * 256
    assert facts.weight_bytes == 256 * 32 * 4 + 2 * 32 * 4 + 2 * 256 * 2


def test_the_text_model_of_a_vision_checkpoint_counts(tmp_path: Path) -> None:
    text = {key: CONFIG[key] for key in CONFIG if key not in ("architectures", "model_type")}
    folder = checkpoint(tmp_path)
    (folder / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["LlavaForConditionalGeneration"],
                "model_type": "llava",
                "text_config": {**text, "head_dim": 32},
            }
        )
    )

    facts = read_checkpoint(folder)

    assert facts.architecture == "LlavaForConditionalGeneration"
    assert facts.head_dim == 32
    assert facts.linear_in_features == (128, 256, 512)


@pytest.mark.parametrize(
    ("changes", "name", "value"),
    [
        ({"sliding_window": 4096}, "sliding_window", 4096),
        ({"sliding_window": 4096, "use_sliding_window": False}, "sliding_window", None),
        ({"kv_lora_rank": 512}, "is_mla", True),
        ({"layer_types": ["linear_attention", "full_attention"]}, "is_hybrid", True),
        ({"layer_types": ["sliding_attention", "full_attention"]}, "is_hybrid", False),
        ({"num_experts": 64}, "experts", 64),
        ({"num_key_value_heads": None}, "kv_heads", 4),
        ({"torch_dtype": None, "dtype": "bfloat16"}, "dtype", "bfloat16"),
    ],
)
def test_what_a_config_says_about_attention_and_experts(
    tmp_path: Path, changes: dict[str, object], name: str, value: object
) -> None:
    facts = read_checkpoint(checkpoint(tmp_path, **changes))

    assert {field: getattr(facts, field) for field in (name,)} == {name: value}


def test_a_folder_without_the_named_sizes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no hidden_size") as caught:
        read_checkpoint(checkpoint(tmp_path, hidden_size=None))
    assert caught.value.code == "model-unreadable"


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_checkpoint(tmp_path)
    assert caught.value.code == "model-unreadable"


def test_missing_and_cut_off_weights_are_told(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "shards")
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="1 of 2 weight files are missing"):
        read_checkpoint(folder)

    cut = checkpoint(tmp_path / "cut") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-1])
    with pytest.raises(InputError, match="shorter than its header"):
        read_safetensors_header(cut)

    empty = checkpoint(tmp_path / "empty")
    (empty / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no weights"):
        read_checkpoint(empty)


def test_a_hub_id_is_found_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError) as caught:
        checkpoint_folder("org/name")
    assert caught.value.code == "model-not-here"

    repository = tmp_path / "models--org--name"
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc\n")
    assert checkpoint_folder("org/name") == snapshot
