"""The model in training: vision tower and projector in full, the demo weights through a low-rank adapter.

The demo checkpoint is zero-padded for the engines' sake; training takes place in the language model's own
dimensions (576 of 768), and assembling a checkpoint pads what was trained in the same way.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from scenes_llava.prompts import IMAGE_TOKEN_ID
from scenes_llava.recipe import Recipe

MEAN = STD = 0.5
"""Of pixels in 0..1; the checkpoint's preprocessor does the same."""


class Adapted(nn.Module):
    """A frozen linear plus a trained low-rank one, summed as weights: what is trained is what gets merged."""

    def __init__(self, weight: Tensor, rank: int, scale: float) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.register_buffer("weight", weight)
        self.down = nn.Parameter(torch.empty(rank, columns).uniform_(-1, 1) / math.sqrt(columns))
        self.up = nn.Parameter(torch.zeros(rows, rank))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        merged = torch.addmm(self.weight, self.up, self.down, alpha=self.scale)
        return F.linear(x, merged.to(x.dtype))


class FusedNorm(nn.Module):
    """The same RMSNorm in one kernel."""

    def __init__(self, norm: LlamaRMSNorm) -> None:
        super().__init__()
        self.register_buffer("weight", norm.weight.data)
        self.eps = norm.variance_epsilon

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class Projector(nn.Module):
    """LLaVA's two layers."""

    def __init__(self, vision_hidden: int, text_hidden: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(vision_hidden, text_hidden)
        self.linear_2 = nn.Linear(text_hidden, text_hidden)

    def forward(self, features: Tensor) -> Tensor:
        return self.linear_2(F.gelu(self.linear_1(features)))


class ScenesLlava(nn.Module):
    def __init__(self, recipe: Recipe, text_dir: Path, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.vision = CLIPVisionModel(vision_config(recipe))
        self.text = text_model(text_dir)
        self.projector = Projector(recipe.hidden, self.text.config.hidden_size)
        self.text.requires_grad_(False)
        for layer in self.text.model.layers:
            for block in (layer.self_attn, layer.mlp):
                for name, module in list(block.named_children()):
                    if isinstance(module, nn.Linear):
                        adapted = Adapted(module.weight.data, recipe.rank, recipe.adapter_scale)
                        setattr(block, name, adapted)
            layer.input_layernorm = FusedNorm(layer.input_layernorm)
            layer.post_attention_layernorm = FusedNorm(layer.post_attention_layernorm)
        self.text.model.norm = FusedNorm(self.text.model.norm)
        self.register_buffer(
            "embeddings", self.text.model.embed_tokens.weight.data.to(dtype), persistent=False
        )

    def features(self, pixels: Tensor) -> Tensor:
        """(pictures, patches, hidden) of uint8 pixels (pictures, side, side, 3), the class token dropped."""
        scaled = (pixels.permute(0, 3, 1, 2).float() / 255 - MEAN) / STD
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=self.dtype is torch.bfloat16):
            seen: Tensor = self.vision(scaled).last_hidden_state[:, 1:]
        return seen

    def project(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, torch.bfloat16, enabled=self.dtype is torch.bfloat16):
            projected: Tensor = self.projector(features)
        return projected.to(self.dtype)

    def hidden(self, ids: Tensor, features: Tensor | None) -> Tensor:
        """The last hidden states (dialogues, tokens, hidden); `features` in order, None for none.

        Padding stands at the end, where causal attention keeps it from all that counts.
        """
        embedded = F.embedding(ids, self.embeddings)
        if features is not None:
            at = (ids == IMAGE_TOKEN_ID).unsqueeze(-1)
            embedded = embedded.masked_scatter(at, self.project(features).flatten(0, 1))
        out: Tensor = self.text.model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.embeddings).float()

    def adapter(self) -> dict[str, Adapted]:
        """By their names in the language model, "layers.0.self_attn.q_proj" and so on."""
        return {
            name: module for name, module in self.text.model.named_modules() if isinstance(module, Adapted)
        }

    @torch.no_grad()
    def fit_projector(self, features: Tensor) -> None:
        """Scale the untrained projector so that pictures come in as loud as words."""
        words = self.embeddings.float().pow(2).mean().sqrt()
        loud = self.project(features).float().pow(2).mean().sqrt()
        self.projector.linear_2.weight.mul_(words / loud)
        self.projector.linear_2.bias.zero_()


def vision_config(recipe: Recipe) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=recipe.hidden,
        intermediate_size=recipe.ffn,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        image_size=recipe.image_px,
        patch_size=recipe.patch_px,
        projection_dim=recipe.hidden,
        initializer_factor=1.0,
        attn_implementation="sdpa",
    )


def text_model(folder: Path) -> LlamaForCausalLM:
    """The demo weights cut back to their own sizes, in float32."""
    padded = LlamaConfig.from_pretrained(folder)
    weights = {name: tensor.float() for name, tensor in load_file(folder / "model.safetensors").items()}
    config = LlamaConfig.from_pretrained(folder)
    config.hidden_size = _used(weights["model.embed_tokens.weight"].abs().sum(0))
    queries, keys = (weights[f"model.layers.0.self_attn.{name}_proj.weight"] for name in "qk")
    config.num_attention_heads = _used(queries.abs().sum(1)) // padded.head_dim
    config.num_key_value_heads = _used(keys.abs().sum(1)) // padded.head_dim
    scale = config.hidden_size / padded.hidden_size
    config.rms_norm_eps = padded.rms_norm_eps / scale
    config.dtype = torch.float32
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in LlamaForCausalLM(config).state_dict().items()}
    own = {}
    for name, shape in shapes.items():
        corner = weights[name][tuple(slice(size) for size in shape)].clone()
        if not torch.isclose(weights[name].abs().sum(), corner.abs().sum(), rtol=1e-4):
            raise ValueError(f"{name} is not zero outside of the model's own sizes")
        own[name] = corner / math.sqrt(scale) if name.endswith("norm.weight") else corner
    model = LlamaForCausalLM(config)
    model.load_state_dict(own)
    return model


def _used(sums: Tensor) -> int:
    """How many there are before all is zero."""
    return int(sums.nonzero().max()) + 1
