"""Turns texts into token ids with a lane's own tokenizer, in a child process of the engine's Python.

`python -m core.quality.run.token_worker`: requests come as lines on stdin and results go to stdout, in JSON.
It imports transformers, and of LMDyno nothing but this package's name.
"""

import hashlib
import json
import sys
from typing import Any

RESULT = "@result "
PROBE = (
    "The quick brown fox, 3.14159 and 1,000,000; naïve café — “quotes”.\n"
    "def twice(x):\n    return 2 * x  # 二倍\n"
    "敏捷的棕色狐狸跳过了懒狗。今天是二〇二六年！ 🙂\tTab  two  spaces\n\n"
)
"""Text whose token ids tell tokenizers apart: words, numbers, code, Chinese, an emoji, blank space."""
PROBE_QUESTION = "What is the capital of France? 法国的首都是哪里？"


def digest(value: object) -> str:
    """The hash under which token ids and vocabularies are compared."""
    return hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()


def main() -> int:
    tokens: Tokens | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            tokens = tokens or Tokens(request)
            result = tokens.answer(request)
        # Whatever a tokenizer of somebody else's making raises, its reason belongs to the asker.
        except Exception as exc:  # noqa: BLE001
            result = {"error": f"{type(exc).__name__}: {exc}"[:500]}
        sys.stdout.write(f"{RESULT}{json.dumps(result)}\n")
        sys.stdout.flush()
    return 0


class Tokens:
    """One tokenizer; the first request names its folder, and for a GGUF file that too."""

    def __init__(self, request: dict[str, Any]) -> None:
        from transformers import AutoTokenizer

        options = {"gguf_file": request["gguf_file"]} if request.get("gguf_file") else {}
        self._tokenizer: Any = AutoTokenizer.from_pretrained(
            request["path"], trust_remote_code=bool(request.get("trust_remote_code")), **options
        )

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The ids of `texts`, those of `prompts` in the chat template, and the tokenizer's hashes."""
        return {
            "texts": [self._ids(text) for text in request.get("texts", ())],
            "prompts": [self._prompt(prompt) for prompt in request.get("prompts", ())],
            "probe_sha256": digest(self._ids(PROBE)),
            "vocab_sha256": digest(sorted(self._tokenizer.get_vocab().items())),
            "template_sha256": digest(self._prompt(PROBE_QUESTION)),
        }

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    def _prompt(self, prompt: str) -> list[int]:
        """The ids that a chat with this one prompt begins with; without a chat template the plain text's."""
        if self._tokenizer.chat_template is None:
            return self._ids(prompt)
        chat = [{"role": "user", "content": prompt}]
        rendered = self._tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        return self._ids(rendered)


if __name__ == "__main__":
    sys.exit(main())
