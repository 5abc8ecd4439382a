"""InternLM2's SentencePiece model as a fast tokenizer with the chat's special tokens and template.

Every engine loads such a tokenizer without InternLM2's remote code. It is compared with SentencePiece before
it counts as done. Imports the tokenizer libraries, so only the conversion's child process
(`core.models.internlm2.to_llama`) uses it.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, processors
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

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


def build_tokenizer(source: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of `tokenizer.model` with the chat's special tokens and template.

    Ends the process if it would encode anything in `_SAMPLES` otherwise than SentencePiece does.
    """
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


def _special_tokens(settings: Mapping[str, Any], pieces: int) -> dict[int, AddedToken]:
    """Special tokens by id: those the tokenizer's config names, else InternLM2-chat's."""
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
    special: Mapping[int, AddedToken],
) -> Tokenizer:
    """SentencePiece's BPE, normalisation and decoding in the terms of the `tokenizers` library."""
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


def _normalizer(spec: Any) -> normalizers.Normalizer:  # noqa: ANN401 - as above
    steps: list[normalizers.Normalizer] = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if spec.add_dummy_prefix:
        steps.append(normalizers.Prepend("▁"))
    return normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])


def _compare(backend: Tokenizer, reference: SentencePieceProcessor) -> None:
    for text in _SAMPLES:
        if backend.encode(text, add_special_tokens=False).ids != reference.encode(text):
            sys.exit(f"The rebuilt tokenizer splits {text!r} otherwise than tokenizer.model does")


def _content(token: str | Mapping[str, Any]) -> str:
    """A special token of tokenizer_config.json, which is a string or an object around one."""
    return token if isinstance(token, str) else str(token["content"])


def _json(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text("utf-8"))) if file.is_file() else {}
