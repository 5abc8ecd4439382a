"""Scores token ids by forward passes with a lane's own weights, in a child process of the engine's Python.

`python -m core.quality.run.score_worker REQUEST RESULT`: both are JSON files; progress goes to stdout. It
imports torch and transformers or LMDeploy, and of LMDyno only what imports nothing of LMDyno itself.

The reference's run leaves its most likely tokens of every position in a file. The other lanes' runs read
it, for top-1 agreement and KL divergence. The divergence is computed over these tokens, with all others as
one: a lower bound of the one over the whole vocabulary, and near it, since the rest has next to no mass.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from core.engines.launch.serve_transformers import load_gguf_weights_faster

PROGRESS = "@progress "
_TOP = 256
_NOT_ENOUGH_MEMORY = "out of memory"


def main(arguments: list[str]) -> int:
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
    sys.exit(main(sys.argv[1:]))
