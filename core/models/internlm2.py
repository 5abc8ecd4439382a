"""InternLM2 becomes a Llama checkpoint, once and without remote code, so that every engine loads one file.

InternLM2 (arXiv 2403.17297) is a Llama whose query, key and value projections are stored as one matrix and
whose layers have names of their own. Engines disagree on how to load that: transformers 5 neither knows the
architecture nor runs its old remote code. `convert` looks, refuses what would convert wrongly, and starts
this module as a child process: `python -m core.models.internlm2 SOURCE FOLDER`. Its standard output is
progress, a line each; the exit code is 0 if FOLDER is complete. Only the child imports torch, transformers
and the tokenizer libraries; no code of the checkpoint is run.

The one matrix `wqkv` holds, for each KV group, the rows of its query heads, then of its key head, then of its
value head; Llama has three matrices. Everything else is a new name. RoPE is the same in both (halves of a
head rotated against each other), so nothing is permuted. Weights are written shard by shard.

The SentencePiece model becomes a fast tokenizer with the chat's special tokens and template, which every
engine loads without InternLM2's remote code. It is compared with SentencePiece before it counts as done.
"""

import hashlib
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.config import awq_dir
from core.config.lanes import MODEL_NAME
from core.domain.specs import ModelSpec
from core.errors import InputError
from core.i18n import N_, Message
from core.models.checkpoint import checkpoint_folder
from core.models.model_folders import (
    StageCallback,
    exclusive,
    read_provenance_note,
    require_space,
    run_child,
    say,
    staging,
    write_provenance,
)
from core.settings import Settings

if TYPE_CHECKING:
    import torch
    from sentencepiece import SentencePieceProcessor
    from tokenizers import AddedToken, Tokenizer, normalizers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

ROPE_TYPES = ("default", "linear", "dynamic")
"""The RoPE scalings that InternLM2's own code has; all are the same in Llama."""

_RESERVE_BYTES = 64 * 2**20
_NAMES = {
    "model.tok_embeddings.weight": "model.embed_tokens.weight",
    "model.norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_CHAT_TOKENS = {
    92538: "<|plugin|>",
    92539: "<|interpreter|>",
    92540: "<|action_end|>",
    92541: "<|action_start|>",
    92542: "<|im_end|>",
    92543: "<|im_start|>",
}
"""The chat models' special tokens, which stand in the place of unused pieces, where no file names them."""
_CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_SAMPLES = (
    "The capital of France is Paris.",
    "  two spaces, then  two more\tand a tab\n\n\nthree lines  ",
    "def f(x: int) -> str:\n    return f'{x:>8,}' if x != 0 else \"0\"\n",
    "法国的首都是巴黎。书生·浦语大模型,２０２４年。",
    "naïve Ærøskøbing Привет こんにちは 안녕 שלום 𝔘𝔫𝔦 🗼👩‍🔬 \u00a0\u200b",
    "3.14159 1,000,000 0x1F 1e-5 $E=mc^2$ <b>&amp;</b> https://example.org/?q=1#a",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The input files of a conversion."""

    source: Path
    config: dict[str, Any]
    shards: tuple[Path, ...]

    @property
    def weight_bytes(self) -> int:
        """Also the size of the result: no value changes."""
        return sum(shard.stat().st_size for shard in self.shards)


def is_internlm2(folder: Path) -> bool:
    """Whether a folder holds a checkpoint in InternLM2's own layout."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == "internlm2"


def plan(source: Path) -> Plan:
    """Look whether a checkpoint can be converted.

    Raises InputError: `not-internlm2`, `model-incomplete`, or `internlm2-variant` for one whose Llama form
    would compute something else.
    """
    if not is_internlm2(source):
        raise InputError(
            N_("{path} is not an InternLM2 checkpoint.", path=source),
            hint=N_('Its config.json must contain "model_type": "internlm2". InternLM3 needs no conversion.'),
            code="not-internlm2",
        )
    config = json.loads((source / "config.json").read_text("utf-8"))
    if config.get("bias"):
        raise _variant(
            N_("its attention has biases"), N_("Only checkpoints with bias = false can be converted.")
        )
    if rope_type(config) not in ROPE_TYPES:
        raise _variant(
            N_('its RoPE scaling is "{kind}"', kind=rope_type(config)),
            N_("Supported: {names}.", names=", ".join(ROPE_TYPES)),
        )
    shards = _shards(source)
    for file in (*shards, source / "tokenizer.model"):
        if not file.is_file():
            raise InputError(
                N_("{file} is missing from {path}.", file=file.name, path=source),
                hint=N_("Download the whole checkpoint."),
                code="model-incomplete",
            )
    return Plan(source=source, config=config, shards=shards)


def rope_type(config: dict[str, Any]) -> str:
    """The RoPE scaling that a config asks for; `default` is none."""
    scaling = config.get("rope_scaling") or {}
    return str(scaling.get("rope_type") or scaling.get("type") or "default")


def convert(settings: Settings, source: Path, *, name: str | None = None, report: StageCallback) -> ModelSpec:
    """Write the Llama form of `source` into the models folder, as `name` or SOURCE-llama.

    Returns at once if it was made from the same source before. Takes a minute for each 10 GB or so, as much
    disk as the source, and the memory of its largest shard. Safe to call from several processes.

    Raises:
        InputError: no InternLM2 checkpoint, one that can't be converted, or the name is taken.
        ModelError: no space, or the conversion failed.
    """
    began_s = time.time()
    source = checkpoint_folder(str(source)).resolve()
    checkpoint = plan(source)
    name = name or f"{source.name}-llama"
    if not MODEL_NAME.fullmatch(name):
        raise InputError(
            N_("{key} is not a valid model name.", key=f'"{name}"'),
            hint=N_("Use letters, digits, dots, hyphens, and underscores."),
        )
    folder = settings.models_dir / name
    digest = hashlib.sha256((source / "config.json").read_bytes()).hexdigest()
    origin = {"checkpoint": source.name, "config_sha256": digest}
    spec = ModelSpec(name=name, checkpoint=str(folder), awq=str(awq_dir(settings, name)))
    with exclusive(settings, name, report):
        if folder.exists():
            _require_same_origin(folder, origin)
            return spec
        require_space(settings.models_dir, checkpoint.weight_bytes + _RESERVE_BYTES, name)
        with staging(folder) as draft:
            run_child(
                "core.models.internlm2",
                [str(source), str(draft)],
                settings.logs_dir / f"{name}.log",
                report,
            )
            write_provenance(
                draft,
                source=origin,
                changes="InternLM2's layout to Llama's: wqkv split into query, key and value projections, "
                "layers renamed, tokenizer and chat template rebuilt; no value changed",
                packages=("torch", "transformers", "safetensors", "sentencepiece", "tokenizers"),
                began_s=began_s,
            )
    report(N_("{model} is ready", model=name))
    return spec


def _shards(source: Path) -> tuple[Path, ...]:
    """The weight files, safetensors before PyTorch's own; one that should be there but isn't included."""
    for stem in ("model.safetensors", "pytorch_model.bin"):
        if (source / stem).is_file():
            return (source / stem,)
        index = source / f"{stem}.index.json"
        if index.is_file():
            weight_map = json.loads(index.read_text("utf-8"))["weight_map"]
            return tuple(source / file for file in sorted(set(weight_map.values())))
    return (source / "model.safetensors",)


def _require_same_origin(folder: Path, origin: dict[str, str]) -> None:
    note = read_provenance_note(folder)
    if note is None or note.get("source") != origin:
        raise InputError(
            N_("{path} already exists and was made from something else.", path=folder),
            hint=N_("Choose another name, or remove that folder."),
            code="name-taken",
        )


def _variant(reason: Message, hint: Message) -> InputError:
    return InputError(
        N_("This InternLM2 checkpoint can't be converted to Llama: {reason}.", reason=reason),
        hint=hint,
        code="internlm2-variant",
    )


def write_llama(source: Path, folder: Path) -> None:
    """Write config, weights, tokenizer and generation config of the Llama form of `source`."""
    from transformers import GenerationConfig

    checkpoint = plan(source)
    say(N_("Rebuilding the tokenizer"))
    tokenizer = build_tokenizer(source)
    config = llama_config(checkpoint.config, tokenizer, source)
    config.save_pretrained(folder)
    GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    convert_weights(checkpoint, config, folder)


def llama_config(
    config: Mapping[str, Any], tokenizer: "PreTrainedTokenizerFast", source: Path
) -> "LlamaConfig":
    """The same sizes and RoPE; an answer ends where the checkpoint's or its chat form's would."""
    from transformers import LlamaConfig

    rope: dict[str, Any] = {
        "rope_type": rope_type(dict(config)),
        "rope_theta": float(config.get("rope_theta", 10_000)),
    }
    if rope["rope_type"] != "default":
        rope["factor"] = float(config["rope_scaling"]["factor"])
    heads = config["num_attention_heads"]
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=config["vocab_size"],
        hidden_size=config["hidden_size"],
        intermediate_size=config["intermediate_size"],
        num_hidden_layers=config["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=config.get("num_key_value_heads") or heads,
        head_dim=config["hidden_size"] // heads,
        hidden_act=config["hidden_act"],
        max_position_embeddings=config["max_position_embeddings"],
        rms_norm_eps=config["rms_norm_eps"],
        rope_parameters=rope,
        tie_word_embeddings=config.get("tie_word_embeddings", False),
        bos_token_id=config.get("bos_token_id", 1),
        eos_token_id=_ends(config, tokenizer, source),
        pad_token_id=config.get("pad_token_id", 2),
        dtype=config.get("torch_dtype") or config.get("dtype") or "bfloat16",
    )


def _ends(config: Mapping[str, Any], tokenizer: "PreTrainedTokenizerFast", source: Path) -> list[int]:
    ids: set[int] = set()
    for given in (
        config.get("eos_token_id", 2),
        _json(source / "generation_config.json").get("eos_token_id"),
    ):
        ids |= {given} if isinstance(given, int) else set(given or ())
    if (end := tokenizer.get_vocab().get("<|im_end|>")) is not None:
        ids.add(end)
    return sorted(ids)


def convert_weights(checkpoint: Plan, config: "LlamaConfig", folder: Path) -> None:
    """Write one Llama shard for each of the source's; at no time more than one is in memory."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaForCausalLM

    with torch.device("meta"):
        missing = {name: t.shape for name, t in LlamaForCausalLM(config).state_dict().items()}
    if config.tie_word_embeddings:
        missing.pop("lm_head.weight", None)
    weight_map: dict[str, str] = {}
    total_bytes = 0
    count = len(checkpoint.shards)
    for number, shard in enumerate(checkpoint.shards, start=1):
        say(N_("Converting shard {number} of {count}", number=number, count=count))
        file = f"model-{number:05}-of-{count:05}.safetensors" if count > 1 else "model.safetensors"
        tensors = {
            name: tensor.contiguous()
            for old_name, old in _read(shard)
            for name, tensor in renamed(old_name, old, config)
        }
        for name, tensor in tensors.items():
            if missing.pop(name, None) != tensor.shape:
                sys.exit(f"{shard.name}: {name} is not expected with the shape {tuple(tensor.shape)}")
            weight_map[name] = file
            total_bytes += tensor.nbytes
        save_file(tensors, folder / file, metadata={"format": "pt"})
    if missing:
        sys.exit(f"The checkpoint has no {min(missing)}")
    if count > 1:
        index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), "utf-8")


def renamed(name: str, tensor: "torch.Tensor", config: "LlamaConfig") -> "Iterator[tuple[str, torch.Tensor]]":
    """The Llama tensors that one InternLM2 tensor becomes."""
    if name.endswith("rotary_emb.inv_freq"):  # computed, and stored by old versions only
        return
    if name == "output.weight" and config.tie_word_embeddings:
        return
    if name in _NAMES:
        yield _NAMES[name], tensor
        return
    layer = re.fullmatch(r"(model\.layers\.\d+)\.(.+)\.weight", name)
    if layer is None:
        sys.exit(f"{name} is no tensor of InternLM2")
    prefix, part = layer.groups()
    if part == "attention.wqkv":
        for letter, matrix in zip("qkv", split_wqkv(tensor, config), strict=True):
            yield f"{prefix}.self_attn.{letter}_proj.weight", matrix
    elif part in _LAYER_NAMES:
        yield f"{prefix}.{_LAYER_NAMES[part]}.weight", tensor
    else:
        sys.exit(f"{name} is no tensor of InternLM2")


def split_wqkv(wqkv: "torch.Tensor", config: "LlamaConfig") -> "tuple[torch.Tensor, ...]":
    """Query, key and value projections out of the fused one."""
    queries = config.num_attention_heads // config.num_key_value_heads
    groups = wqkv.unflatten(0, (config.num_key_value_heads, queries + 2, config.head_dim))
    q, k, v = groups.split([queries, 1, 1], dim=1)
    return q.flatten(0, 2), k.flatten(0, 2), v.flatten(0, 2)


def _read(shard: Path) -> "Iterator[tuple[str, torch.Tensor]]":
    import torch
    from safetensors import safe_open

    if shard.suffix == ".safetensors":
        with safe_open(shard, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dict
                yield name, tensors.get_tensor(name)
    else:
        # A pickle may hold any program; weights_only lets nothing but tensors through.
        yield from torch.load(shard, map_location="cpu", weights_only=True, mmap=True).items()


def _json(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text("utf-8"))) if file.is_file() else {}


def build_tokenizer(source: Path) -> "PreTrainedTokenizerFast":
    """The tokenizer of `tokenizer.model` with the chat's special tokens and template.

    Ends the process if it would encode anything in `_SAMPLES` otherwise than SentencePiece does.
    """
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    settings = _json(source / "tokenizer_config.json")
    model_file = source / "tokenizer.model"
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    proto.ParseFromString(model_file.read_bytes())
    backend = _backend(proto, _special_tokens(settings, len(proto.pieces)))
    _compare(backend, SentencePieceProcessor(model_file=str(model_file)))
    bos = _content(settings.get("bos_token", "<s>"))
    if settings.get("add_bos_token", True):
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A",
            pair=f"{bos} $A {bos}:1 $B:1",
            special_tokens=[(bos, backend.token_to_id(bos))],
        )
    template_file = source / "chat_template.jinja"
    template = template_file.read_text("utf-8") if template_file.is_file() else settings.get("chat_template")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=bos,
        eos_token=_content(settings.get("eos_token", "</s>")),
        unk_token=_content(settings.get("unk_token", "<unk>")),
        pad_token=_content(settings.get("pad_token", "</s>")),
        chat_template=template if isinstance(template, str) else _CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=_json(source / "config.json")["max_position_embeddings"],
    )


def _special_tokens(settings: Mapping[str, Any], pieces: int) -> "dict[int, AddedToken]":
    """Special tokens by id: those the tokenizer's config names, else InternLM2-chat's."""
    from tokenizers import AddedToken

    named = {
        int(number): AddedToken(
            token["content"],
            special=token.get("special", True),
            normalized=False,
            lstrip=token.get("lstrip", False),
            rstrip=token.get("rstrip", False),
            single_word=token.get("single_word", False),
        )
        for number, token in settings.get("added_tokens_decoder", {}).items()
    }
    if not named and pieces > max(_CHAT_TOKENS):
        named = {
            number: AddedToken(token, special=True, normalized=False)
            for number, token in _CHAT_TOKENS.items()
        }
    return named


def _backend(
    proto: Any,  # noqa: ANN401 - a generated class without types
    special: "Mapping[int, AddedToken]",
) -> "Tokenizer":
    """SentencePiece's BPE, normalisation and decoding in the terms of the `tokenizers` library."""
    from tokenizers import AddedToken, Tokenizer, decoders
    from tokenizers.models import BPE

    kinds = type(proto.pieces[0])
    if proto.trainer_spec.model_type != proto.trainer_spec.BPE:
        sys.exit("tokenizer.model is not a BPE model")
    pieces = [piece.piece for piece in proto.pieces]
    tokens = dict(special)
    for number, piece in enumerate(proto.pieces):
        if piece.type in (kinds.CONTROL, kinds.UNKNOWN, kinds.USER_DEFINED) and number not in tokens:
            is_symbol = piece.type == kinds.USER_DEFINED
            tokens[number] = AddedToken(piece.piece, special=not is_symbol, normalized=False)
    for number, token in tokens.items():
        if number < len(pieces):
            pieces[number] = token.content
    scores = {p.piece: p.score for p in proto.pieces if p.type == kinds.NORMAL}
    backend = Tokenizer(
        BPE(
            vocab={piece: number for number, piece in enumerate(pieces)},
            merges=_merges(scores),
            unk_token=pieces[proto.trainer_spec.unk_id],
            fuse_unk=True,
            byte_fallback=proto.trainer_spec.byte_fallback,
        )
    )
    backend.normalizer = _normalizer(proto.normalizer_spec)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if proto.normalizer_spec.add_dummy_prefix:
        steps.append(decoders.Strip(content=" ", left=1))
    backend.decoder = decoders.Sequence(steps)
    backend.add_tokens([tokens[number] for number in sorted(tokens)])
    if wrong := [t.content for number, t in tokens.items() if backend.token_to_id(t.content) != number]:
        sys.exit(f"The special token {wrong[0]} can't get its id")
    return backend


def _merges(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """SentencePiece joins the pair with the best-scored result first, so that is the order of the merges."""
    return [
        (piece[:cut], piece[cut:])
        for piece in sorted(scores, key=lambda piece: -scores[piece])
        for cut in range(1, len(piece))
        if piece[:cut] in scores and piece[cut:] in scores
    ]


def _normalizer(spec: Any) -> "normalizers.Normalizer":  # noqa: ANN401 - as above
    from tokenizers import Regex, normalizers

    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend("▁"))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])


def _compare(backend: "Tokenizer", reference: "SentencePieceProcessor") -> None:
    for text in _SAMPLES:
        if backend.encode(text, add_special_tokens=False).ids != reference.encode(text):
            sys.exit(f"The rebuilt tokenizer splits {text!r} otherwise than tokenizer.model does")


def _content(token: str | Mapping[str, Any]) -> str:
    """A special token of tokenizer_config.json, which is a string or an object around one."""
    return token if isinstance(token, str) else str(token["content"])


if __name__ == "__main__":
    write_llama(Path(sys.argv[1]), Path(sys.argv[2]))
