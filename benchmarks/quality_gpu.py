"""What AWQ and a quantised KV cache cost in answers, on a real GPU with the demo model.

    python benchmarks/quality_gpu.py --out FILE.json [--steps awq,weights,kv,dtypes] [--limit-s S]

awq      W4A16 three times: calibrated on Python's documentation; on own answers with searched scales; the
         same with error-compensated rounding
weights  transformers against TurboMind in 16 bits and all W4A16 forms
kv       TurboMind against itself with a KV cache of 8 and 4 bits
dtypes   transformers in float16 against float32 and bfloat16: the noise of 16 bits

Each step is written down as soon as it is done, and begun only if there is time for it; run the same command
again with other `--steps` for the rest: weights that were made are kept in the home. `checks` holds what must
be true: transformers and TurboMind within 0.002 nats, `/get_ppl` within 0.001 of a forward pass.

`--tiny` shows on a machine without a GPU that the program runs: transformers in bfloat16 against the 4-bit
GGUF file, with few questions.
"""

import argparse
import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpu_steps import Steps, tell

from core.codec import encode
from core.domain.runs import QualityRecord
from core.domain.specs import EngineKind, EngineSettings, LaneSpec, ModelSpec, Weights
from core.jobs.registry import Jobs
from core.models.awq.options import AwqOptions
from core.models.demo_models import prepare_text
from core.models.job import DEMO_OPTIONS, check_quantization, quantize
from core.quality.job import conduct
from core.quality.plan import OWN_ANSWERS, PROMPTS, PYTHON_DOCS, QualityPlan, ShippedSet, kv_variants, shipped
from core.quality.results import LaneQuality, QualityResult, results
from core.settings import Settings, load_settings
from core.store.runs import QualityRuns

ENGINES_AGREE_NATS = 0.002
METHODS_AGREE_NATS = 0.001
AWQ = {
    "awq": AwqOptions(calibration="python-docs", samples=32, seqlen=1024),
    "awq-better": replace(DEMO_OPTIONS, rounding="nearest", batch_size=64),
    "awq-compensated": DEMO_OPTIONS,
}
NEEDS_S = {"awq": 120.0, "weights": 240.0, "kv": 150.0, "dtypes": 90.0}
RESERVE_S = 15.0
"""Kept of the limit for a run to stop with what it has."""


class Comparison:
    def __init__(self, settings: Settings, steps: Steps, *, tiny: bool) -> None:
        self._settings = settings
        self._steps = steps
        self._tiny = tiny
        self._model: ModelSpec | None = None

    @property
    def model(self) -> ModelSpec:
        if self._model is None:
            self._model = prepare_text(self._settings, lambda stage, _=None: tell(str(stage)))
        return self._model

    # The steps

    def awq(self) -> dict[str, Any]:
        found = {}
        for name, options in AWQ.items():
            if self._awq_folder(name).exists():
                found[name] = {"kept": str(self._awq_folder(name))}
                continue
            try:
                found[name] = self._quantise(name, options)
            except Exception as error:  # noqa: BLE001  the other calibration is worth having alone
                found[name] = {"failed": f"{type(error).__name__}: {error}"}
            tell(f"{name}: {found[name]}")
        return found

    def weights(self) -> dict[str, Any]:
        lanes = [self.hf(), self.turbomind()]
        lanes += [self._awq_lane(name) for name in AWQ if self._awq_folder(name).exists()]
        return self._compare(lanes, "hf", repeat=True)

    def kv(self) -> dict[str, Any]:
        lane = self.turbomind()
        return self._compare([lane, *kv_variants(lane, (8, 4))], lane.name, repeat=True)

    def dtypes(self) -> dict[str, Any]:
        lanes = [self.hf(), *(self.hf(dtype, f"hf-{dtype}") for dtype in ("float32", "bfloat16"))]
        return self._compare(lanes, "hf", repeat=False, prompts=12, tasks=False)

    # Lanes

    def hf(self, dtype: str = "float16", name: str = "hf") -> LaneSpec:
        settings = EngineSettings(
            dtype="bfloat16" if self._tiny else dtype, device="cpu" if self._tiny else None
        )
        return LaneSpec(name=name, kind=EngineKind.TRANSFORMERS, model=self.model, settings=settings)

    def turbomind(self) -> LaneSpec:
        if self._tiny:
            return replace(self.hf(), name="turbomind", weights=Weights.GGUF)
        return LaneSpec(
            name="turbomind", kind=EngineKind.TURBOMIND, model=self.model, settings=self._lmdeploy()
        )

    def _awq_lane(self, name: str) -> LaneSpec:
        return LaneSpec(
            name=name,
            kind=EngineKind.AWQ,
            model=replace(self.model, awq=str(self._awq_folder(name))),
            weights=Weights.AWQ,
            settings=self._lmdeploy(),
        )

    def _lmdeploy(self) -> EngineSettings:
        return EngineSettings(dtype="float16", cache_max_entry_count=0.1, session_len=2048, max_batch_size=8)

    # Work

    def _awq_folder(self, name: str) -> Path:
        return self._settings.models_dir / f"{self.model.name}-quality-{name}"

    def _quantise(self, name: str, options: AwqOptions) -> dict[str, Any]:
        options = replace(options, out=str(self._awq_folder(name)))
        for finding in check_quantization(self._settings, self.model, options):
            tell(f"{name}: {finding.problem.message}")
        jobs = Jobs(self._settings)
        status = jobs.wait(
            quantize(self._settings, self.model, options), max(30.0, self._steps.left_s - RESERVE_S)
        )
        if not status.state.ended:
            jobs.cancel(status.id)
        if status.record.error:
            raise RuntimeError(f"{status.record.error.message} {jobs.log_tail(status.id, 15)}")
        return {
            "options": json.loads(encode(options)),
            "state": status.state.value,
            "elapsed_s": status.elapsed_s,
            "result": status.record.result,
        }

    def _compare(
        self,
        lanes: list[LaneSpec],
        reference: str,
        *,
        repeat: bool,
        prompts: int = len(PROMPTS),
        tasks: bool = True,
    ) -> dict[str, Any]:
        items = tuple(item for name in ShippedSet for item in shipped(name)) if tasks else ()
        if self._tiny:
            prompts, items = 2, items[::31]
        plan = QualityPlan(
            lanes=tuple(lanes),
            reference=reference,
            prompts=PROMPTS[:prompts],
            tasks=items,
            task_sets=tuple(ShippedSet) if items else (),
            texts=(OWN_ANSWERS, PYTHON_DOCS),
            text_tokens=256 if self._tiny else 8192,
            window_tokens=64 if self._tiny else 512,
            answer_tokens=16 if self._tiny else 48,
            repeat_reference=repeat,
        )
        # The run ends itself at this signal, with what it has.
        timer = threading.Timer(
            max(1.0, self._steps.left_s - RESERVE_S), os.kill, (os.getpid(), signal.SIGTERM)
        )
        timer.start()
        try:
            run = conduct(self._settings, plan, _Teller())
        finally:
            timer.cancel()
        record = QualityRuns(self._settings.database_url).record(run.id)
        return summary(results(record)) | {"record": json.loads(encode(_short(record)))}


class _Teller:
    """Prints each stage once, with its progress at most every twentieth."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, stage: str, progress: float | None = None) -> None:
        told = f"{stage if progress is None else str(stage).partition(':')[0]} {(progress or 0) * 20:.0f}"
        if told != self._last:
            self._last = told
            tell(f"{stage} ({progress or 0:.0%})")


def summary(result: QualityResult) -> dict[str, Any]:
    """The figures of every lane, and whether what must be true is."""
    return {
        "state": result.run.state.value,
        "reference": result.reference.name,
        "noise": agreement_figures(result.noise) if result.noise else None,
        "lanes": {lane.name: lane_figures(lane) for lane in result.lanes},
        "checks": checks(result),
    }


def lane_figures(lane: LaneQuality) -> dict[str, Any]:
    tasks = lane.tasks
    return {
        "role": lane.role.value,
        "error": json.loads(encode(lane.facts.error)),
        "engine": lane.facts.engine_version,
        "tasks": tasks
        and {
            "outcomes": {outcome.value: count for outcome, count in tasks.outcomes.items()},
            "accuracy_ratio": tasks.accuracy_ratio,
            "interval_95": json.loads(encode(tasks.interval)),
            "against_reference": json.loads(encode(tasks.difference)),
        },
        "agreement": lane.agreement and agreement_figures(lane.agreement),
        "texts": {
            text.text: {**json.loads(encode(text)), "perplexity": text.perplexity} for text in lane.texts
        },
        "timed": lane.timed,
        "ttft_p50_s": lane.ttft_p50_s,
        "decode_tok_per_s_p50": lane.decode_tok_per_s_p50,
        "energy_j_per_token": lane.energy_j_per_token,
        "memory_bytes": lane.memory_bytes,
        "weight_bytes": lane.facts.weight_bytes,
        "same_tokenizer": lane.same_tokenizer,
        "same_template": lane.same_template,
    }


def agreement_figures(score: Any) -> dict[str, Any]:
    return {
        "n": score.n,
        "identical": score.identical,
        "token_ratio": score.token_ratio,
        "prefix_tokens_mean": score.prefix_tokens,
        "parts_at_p50": score.parts_at_p50,
        "differing_prompts": score.differing_prompts,
    }


def checks(result: QualityResult) -> list[dict[str, Any]]:
    """What must be true of these engines, with the figures; `ok` is None where one is missing."""
    found: list[dict[str, Any]] = []
    for lane in result.lanes:
        for text in lane.texts:
            if lane.name == "turbomind" and result.reference.name == "hf":
                gap = text.difference.value if text.difference else None
                found.append(
                    _check("TurboMind − transformers, 16 bits", lane, text.text, gap, ENGINES_AGREE_NATS)
                )
            if lane.facts.lane.kind in (EngineKind.TURBOMIND, EngineKind.AWQ):
                gap = text.methods_gap_nats
                found.append(_check("/get_ppl − forward pass", lane, text.text, gap, METHODS_AGREE_NATS))
    return found


def _check(what: str, lane: LaneQuality, text: str, gap: float | None, limit: float) -> dict[str, Any]:
    ok = None if gap is None else abs(gap) <= limit
    tell(f"{what}, {lane.name}, {text}: {gap} nats (limit {limit}): {'unknown' if ok is None else ok}")
    return {"what": what, "lane": lane.name, "text": text, "gap_nats": gap, "limit_nats": limit, "ok": ok}


def _short(record: QualityRecord) -> dict[str, Any]:
    """The answers by lane, and every sequence's score; the plan's tasks are known."""
    return {
        "answers": [
            {
                "lane": answer.lane,
                "part": answer.part,
                "item": answer.item,
                "repeat": answer.repeat,
                "text": answer.text,
                "finish_reason": answer.finish_reason,
                "error": answer.error,
            }
            for answer in record.answers
        ],
        "scores": {lane.lane.name: lane.scores for lane in record.run.lanes},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(os.environ["OUT"], "quality.json") if "OUT" in os.environ else None
    parser.add_argument("--out", type=Path, default=default, required=default is None)
    parser.add_argument("--steps", default="awq,weights,kv,dtypes", help="which of the steps, in this order")
    parser.add_argument("--limit-s", type=float, default=540.0)
    parser.add_argument("--tiny", action="store_true", help="only shows that the program runs, without a GPU")
    options = parser.parse_args()
    steps = Steps(options.out.resolve(), options.limit_s)
    comparison = Comparison(load_settings(), steps, tiny=options.tiny)
    work = {
        "awq": comparison.awq,
        "weights": comparison.weights,
        "kv": comparison.kv,
        "dtypes": comparison.dtypes,
    }
    steps.run("demo", lambda: comparison.model.checkpoint)
    for name in options.steps.split(","):
        steps.run(name, work[name], needs_s=0.0 if options.tiny else NEEDS_S[name])


if __name__ == "__main__":
    main()
