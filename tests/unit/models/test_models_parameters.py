"""Parameters counted from config.json, against the published sizes of the models."""

import pytest

from core.models.model_config import ModelConfig
from core.models.parameters import count_parameters
from tests.unit.models import model_configs as published


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("LLAMA_3_1_8B", 8.03e9),
        ("QWEN2_5_7B", 7.62e9),
        ("MISTRAL_7B_V0_1", 7.24e9),
        ("MIXTRAL_8X7B", 46.7e9),
        ("QWEN3_30B_A3B", 30.5e9),
        ("LLAVA_1_5_7B", 7.06e9),
        ("INTERNVL2_26B", 25.5e9),
    ],
)
def test_published_sizes(name, parameters):
    assert count_parameters(ModelConfig(getattr(published, name), name)).total == pytest.approx(
        parameters, rel=0.01
    )


def test_linear_layers_are_those_of_the_language_model():
    count = count_parameters(ModelConfig(published.INTERNVL2_26B, "x"))
    assert count.linear == 48 * (8192 * 6144 + 6144 * 6144 + 3 * 16_384 * 6144)
    assert count.embeddings == 2 * 92_553 * 6144


def test_dense_layers_before_a_mixture():
    count = count_parameters(ModelConfig(published.DEEPSEEK_V2_LITE, "x"))
    experts = 26 * 3 * 2048 * (64 * 1408 + 2 * 1408)
    attention = 27 * 2 * (16 + 16) * 128 * 2048
    assert count.linear == experts + 3 * 2048 * 10_944 + attention
