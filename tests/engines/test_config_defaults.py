"""The sizes that config.json files leave out, against transformers' own config classes."""

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from core.models.model_config import CLASS_DEFAULTS, ModelConfig


@pytest.mark.parametrize("model_type", sorted(CLASS_DEFAULTS))
def test_a_config_that_says_nothing_is_that_of_the_class(model_type):
    theirs = CONFIG_MAPPING[model_type]()
    ours = ModelConfig({"model_type": model_type}, "nothing")

    for name in ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size"):
        assert ours.size(name) == getattr(theirs, name), name
    assert (ours.heads, ours.kv_heads) == (theirs.num_attention_heads, theirs.num_key_value_heads)
    head_dim = getattr(theirs, "head_dim", None)
    assert ours.head_dim == (head_dim or theirs.hidden_size // theirs.num_attention_heads)
    assert ours.whole("max_position_embeddings") == theirs.max_position_embeddings
    window = getattr(theirs, "sliding_window", None) or None
    assert ours.whole("sliding_window") == window
    assert ours.tie_word_embeddings == bool(getattr(theirs, "tie_word_embeddings", False))
