"""The shortened reading of GGUF files against gguf's and transformers' own."""

import gguf
import numpy as np
import pytest
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from core.engines.launch import serve_transformers


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("small")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([f"token {number} 法国" for number in range(3000)])
    writer.add_token_types([1] * 3000)
    writer.add_languages(["en", "zh"])
    writer.add_eos_token_id(7)
    writer.add_tensor("token_embd.weight", np.arange(64, dtype=np.float32).reshape(2, 32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


def test_settings_and_tensors_are_the_same_without_the_vocabulary(path, monkeypatch):
    whole = load_gguf_checkpoint(path)["config"]
    monkeypatch.setattr(gguf.GGUFReader, "_get_field_parts", gguf.GGUFReader._get_field_parts)
    serve_transformers.skip_vocabularies()

    assert load_gguf_checkpoint(path)["config"] == whole
    assert whole["vocab_size"] == 3000
    reader = gguf.GGUFReader(path)
    assert len(reader.fields["tokenizer.ggml.tokens"].parts) == 6
    assert reader.fields["tokenizer.ggml.eos_token_id"].contents() == 7
    assert reader.fields["general.languages"].contents() == ["en", "zh"]
    (tensor,) = reader.tensors
    np.testing.assert_array_equal(tensor.data, np.arange(64, dtype=np.float32).reshape(2, 32))
