"""Child processes in an engine's own Python: token ids by a lane's tokenizer, and scores by its weights.

`python -m core.quality.engine_child` answers requests for token ids, which come as JSON lines on stdin;
results go to stdout. It imports transformers. With REQUEST and RESULT, two JSON files, it scores token ids by
forward passes, and progress goes to stdout. It imports torch and transformers or LMDeploy. Of LMDyno it
imports only what imports nothing of LMDyno itself, since the engine's environment may lack LMDyno's packages.

The reference's run leaves its most likely tokens of every position in a file. The other lanes' runs read
it, for top-1 agreement and KL divergence. The divergence is computed over these tokens, with all others as
one: a lower bound of the one over the whole vocabulary, and near it, since the rest has next to no mass.
"""

import asyncio
import hashlib
import json
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from core.engines.launch.serve_transformers import load_gguf_weights_faster

_GRACE_S = 5.0

RESULT = "@result "
PROBE = (
    "The quick brown fox, 3.14159 and 1,000,000; naïve café — “quotes”.\n"
    "def twice(x):\n    return 2 * x  # 二倍\n"
    "敏捷的棕色狐狸跳过了懒狗。今天是二〇二六年！ 🙂\tTab  two  spaces\n\n"
)
"""Text whose token ids tell tokenizers apart: words, numbers, code, Chinese, an emoji, blank space."""
PROBE_QUESTION = "What is the capital of France? 法国的首都是哪里？"

PROGRESS = "@progress "
_TOP = 256
_NOT_ENOUGH_MEMORY = "out of memory"


def child_environment(device: str, *, offline: bool) -> dict[str, str]:
    """The environment for a child that works on `device` (`cpu`, `cuda:0`, `cuda:0,1`); "" sees no GPU."""
    environment = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": device.partition(":")[2],
    }
    if offline:
        environment["HF_HUB_OFFLINE"] = "1"
    return environment


async def end(process: asyncio.subprocess.Process) -> None:
    """End a child and wait for it; one that does not end by itself is killed."""
    if process.returncode is not None:
        return
    if process.stdin is not None:
        process.stdin.close()
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(_GRACE_S):
            await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def digest(value: object) -> str:
    """The hash under which token ids and vocabularies are compared."""
    return hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()


def answer_token_requests() -> int:
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


def score(arguments: list[str]) -> int:
    request_file, result_file = map(Path, arguments)
    request = json.loads(request_file.read_bytes())
    try:
        result = _result(request)
    except Exception as exc:
        kind = "out-of-memory" if _NOT_ENOUGH_MEMORY in str(exc).lower() else "scoring-failed"
        result_file.write_text(json.dumps({"error": kind, "reason": f"{type(exc).__name__}: {exc}"[:500]}))
        raise
    result_file.write_text(json.dumps(result))
    return 0


def _result(request: dict[str, Any]) -> dict[str, Any]:
    began = time.monotonic()
    engine = _ENGINES[request["engine"]](request)
    loaded_s = time.monotonic() - began
    try:
        texts = _score(engine, request)
    finally:
        engine.close()
    return {"texts": texts, "load_s": round(loaded_s, 3), "versions": engine.versions()}


def _score(engine: Any, request: dict[str, Any]) -> list[list[dict[str, Any]]]:  # noqa: ANN401 - of two kinds
    reference = _Reference(request)
    total = sum(len(text) for text in request["texts"]) or 1
    done = 0
    scores: list[list[dict[str, Any]]] = []
    for text_number, sequences in enumerate(request["texts"]):
        scores.append([])
        for number, (ids, given) in enumerate(sequences):
            scores[-1].append(reference.add(f"{text_number}/{number}", engine.logits(ids), ids, given))
            done += 1
            sys.stdout.write(f"{PROGRESS}{done / total}\n")
            sys.stdout.flush()
    reference.close()
    return scores


class _Reference:
    """Scores logits, and writes or reads the reference's most likely tokens."""

    def __init__(self, request: dict[str, Any]) -> None:
        self._write_to = request.get("write_reference")
        self._arrays: dict[str, Any] = {}
        self._read: Any = None
        if request.get("read_reference"):
            import numpy as np

            self._read = np.load(request["read_reference"])

    def add(self, key: str, logits: Any, ids: list[int], context_tokens: int) -> dict[str, Any]:  # noqa: ANN401 - a tensor
        import torch

        tokens = len(ids) - context_tokens
        targets = torch.tensor(ids[context_tokens:], device=logits.device)
        log_p = torch.log_softmax(logits[context_tokens - 1 : len(ids) - 1].float(), dim=-1)
        nll = -log_p.gather(1, targets[:, None]).double().sum()
        scored: dict[str, Any] = {"tokens": tokens, "nll_nats": float(nll)}
        if self._write_to:
            top = log_p.topk(min(_TOP, log_p.shape[-1]), dim=-1)
            self._arrays[f"{key}/ids"] = top.indices.to(torch.int32).cpu().numpy()
            self._arrays[f"{key}/log_p"] = top.values.float().cpu().numpy()
            scored |= {"top1_matches": tokens, "kl_nats": 0.0}
        elif self._read is not None:
            scored |= self._against(key, log_p)
        return scored

    def _against(self, key: str, log_q: Any) -> dict[str, Any]:  # noqa: ANN401 - a tensor
        import torch

        if f"{key}/ids" not in self._read:
            return {}
        ids = torch.from_numpy(self._read[f"{key}/ids"]).to(log_q.device).long()
        log_p = torch.from_numpy(self._read[f"{key}/log_p"]).to(log_q.device).double()
        log_q_top = log_q.gather(1, ids).double()
        p_rest = (1 - log_p.exp().sum(1)).clamp_min(0)
        q_rest = (1 - log_q_top.exp().sum(1)).clamp_min(1e-12)
        kl = (log_p.exp() * (log_p - log_q_top)).sum(1)
        kl += torch.where(p_rest > 1e-9, p_rest * ((p_rest.clamp_min(1e-12)).log() - q_rest.log()), 0.0)
        matches = (log_q.argmax(1) == ids[:, 0]).sum()
        return {"top1_matches": int(matches), "kl_nats": float(kl.clamp_min(0).sum())}

    def close(self) -> None:
        if self._write_to:
            import numpy as np

            np.savez(self._write_to, **self._arrays)


class _Transformers:
    """The weights as `transformers serve` loads them."""

    def __init__(self, request: dict[str, Any]) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        options: dict[str, Any] = {}
        if request.get("gguf_file"):
            load_gguf_weights_faster()
            options["gguf_file"] = request["gguf_file"]
        self._device = "cuda" if request["device"] != "cpu" and torch.cuda.is_available() else "cpu"
        self._model: Any = AutoModelForCausalLM.from_pretrained(
            request["path"],
            dtype=request["dtype"],
            trust_remote_code=bool(request.get("trust_remote_code")),
            **options,
        )
        self._model.to(self._device).eval()

    def logits(self, ids: list[int]) -> Any:  # noqa: ANN401 - a tensor
        import torch

        with torch.inference_mode():
            return self._model(torch.tensor([ids], device=self._device)).logits[0]

    def close(self) -> None: ...

    @staticmethod
    def versions() -> dict[str, str]:
        from importlib.metadata import version

        return {name: version(name) for name in ("transformers", "torch")}


class _LMDeploy:
    """LMDeploy's own pipeline with the lane's settings, its KV cache as short as the texts need."""

    def __init__(self, request: dict[str, Any]) -> None:
        from lmdeploy import PytorchEngineConfig, TurbomindEngineConfig, pipeline

        kind = PytorchEngineConfig if request["engine"] == "lmdeploy-pytorch" else TurbomindEngineConfig
        config = kind(**request["engine_config"])
        options = {"trust_remote_code": True} if request.get("trust_remote_code") else {}
        self._pipeline: Any = pipeline(request["path"], backend_config=config, **options)

    def logits(self, ids: list[int]) -> Any:  # noqa: ANN401 - a tensor
        engine = self._pipeline.async_engine
        sequences = self._pipeline._run(coro=engine.async_get_logits(input_ids=[ids])).result()
        return sequences[0]

    def close(self) -> None:
        self._pipeline.close()

    @staticmethod
    def versions() -> dict[str, str]:
        from importlib.metadata import version

        return {name: version(name) for name in ("lmdeploy", "torch")}


_ENGINES: dict[str, Any] = {
    "transformers": _Transformers,
    "lmdeploy-turbomind": _LMDeploy,
    "lmdeploy-pytorch": _LMDeploy,
}


if __name__ == "__main__":
    sys.exit(score(sys.argv[1:]) if sys.argv[1:] else answer_token_requests())
