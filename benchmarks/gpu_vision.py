"""Images on a real GPU: what they cost in time and memory, and whether two engines see the same.

    python benchmarks/gpu_vision.py --out FILE.json --tokenizer MODEL_DIR [--work DIR] [--limit-s S]

Needs an NVIDIA GPU with LMDeploy and transformers, and the demo weights (LMDYNO_DEMO_GGUF). Random weights
stand in for LLaVA-1.5-7B and Qwen2.5-VL-3B (tools/random_checkpoint.py): speed and memory don't depend on
values. MODEL_DIR lends its tokenizer, such as that of the demo weights.

demo      the demo vision model on LMDeploy's PyTorch engine and on transformers: the held-out set, greedily
start     the engines of the large models; meanwhile the demo's questions are answered
measure   text alone, text as long as a prompt with an image, and an image; three turns with two images

`--tiny` shows on a machine without a GPU that the program runs: tiny random weights, and transformers on the
CPU in place of LMDeploy. It measures nothing.
"""

import argparse
import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpu_exam import examine, known_median
from gpu_images import Site
from gpu_steps import Steps, arguments, healthy, start_engines, tell, wait_for, write_weights

from core.bench.workload import SyntheticPrompts
from core.domain.conversation import Exchange, Message, Sampling, StoredImage, messages_for
from core.domain.specs import EngineKind, EngineSettings, LaneSpec, ModelSpec
from core.domain.turns import RequestRecord
from core.engines.manager import EngineManager
from core.engines.resolve import find_endpoint
from core.engines.status import EngineWatch
from core.models.context import LaneTokenizer, image_cost
from core.models.demo_models import prepare_vision
from core.models.vision import refusal
from core.settings import Settings, load_settings
from core.telemetry.nvml import Nvml
from core.telemetry.sampler import Sampler

TEXT_TOKENS = 24
TOKENS = {EngineKind.TRANSFORMERS: 32}
"""Output tokens of an engine where they aren't LMDeploy's 64: transformers takes its time for each."""
REPEATS = 5
SIZES_PX = ((672, 448), (336, 336), (1000, 600), (448, 896), (800, 800), (640, 480))
START_S = 150.0
MEASURE_S = 80.0
"""Kept for the measurements; the demo's questions that were not reached by then are left out."""
KV_RATIO = 0.06


class Asker:
    """Asks one lane, and says what each answer took. Raises RuntimeError for a request that failed."""

    def __init__(self, site: Site, lane: LaneSpec, sampler: Sampler) -> None:
        assert lane.model
        self._site = site
        self._lane = lane
        self._sampler = sampler
        self._words = LaneTokenizer(Path(lane.model.checkpoint)).plain_words()
        self.output_tokens = TOKENS.get(lane.kind, 64)

    def row(self, size_px: tuple[int, int], number: int) -> dict[str, Any]:
        """A short text, a text as long as the prompt with the image, and an image with a short text."""
        image = self._site.noise(size_px, number)
        tokens = self._image_tokens((image,))
        text = self._figures(messages_for(self._prompt(TEXT_TOKENS, number)))
        long = self._figures(messages_for(self._prompt(TEXT_TOKENS + tokens, number)))
        seen = self._figures(messages_for(self._prompt(TEXT_TOKENS, 1000 + number), images=(image,)))
        return {
            "image_px": size_px,
            "predicted_image_tokens": tokens,
            "reported_image_tokens": seen["prompt_tokens"] - text["prompt_tokens"],
            "text": text,
            "text as long": long,
            "image": seen,
        }

    def three_turns(self) -> list[dict[str, Any]]:
        """Three turns: an image, another image, no image."""
        shown = [(self._site.noise(SIZES_PX[0], 100),), (self._site.noise(SIZES_PX[1], 101),), ()]
        earlier: list[Exchange] = []
        found = []
        for number, images in enumerate(shown):
            text = self._prompt(TEXT_TOKENS, 2000 + number)
            record = self._ask(messages_for(text, earlier=earlier, images=images))
            so_far = tuple(image for some in shown[: number + 1] for image in some)
            found.append(
                {
                    **self._facts(record),
                    "images": record.image_count,
                    "predicted_image_tokens": self._image_tokens(so_far),
                }
            )
            earlier.append(Exchange(text, record.text, images))
        return found

    def _prompt(self, length: int, number: int) -> str:
        made = SyntheticPrompts(self._words, length, label="", seed=0, run_id=f"{self._lane.name}/{length}")
        return made.messages(number)[0].content

    def _image_tokens(self, images: tuple[StoredImage, ...]) -> int:
        costs = [image_cost(self._lane, image) for image in images]
        return sum(cost.tokens for cost in costs if cost)

    def _ask(self, messages: tuple[Message, ...]) -> RequestRecord:
        sampling = Sampling(max_tokens=self.output_tokens, fixed_length=True)
        record = asyncio.run(self._site.ask(self._lane, messages, sampling))
        if record.error:
            raise RuntimeError(f"{record.error.code}: {record.error.message}")
        return record

    def _figures(self, messages: tuple[Message, ...]) -> dict[str, Any]:
        return self._facts(self._ask(messages))

    def _facts(self, record: RequestRecord) -> dict[str, Any]:
        timing = record.timing
        assert timing
        assert timing.ended_ns is not None
        window = self._sampler.window(timing.sent_ns, timing.ended_ns)
        own = next((engine for engine in window.engines if engine.name == self._lane.name), None)
        return {
            "ttft_s": record.ttft_s,
            "decode_tok_per_s": record.decode_tok_per_s,
            "e2e_s": record.e2e_s,
            "prompt_tokens": record.prompt_tokens,
            "output_tokens": record.output_tokens,
            "chunks": len(timing.chunk_ns),
            "peak_gpu_bytes": own.peak_gpu_bytes if own else None,
        }


class Vision:
    def __init__(self, options: argparse.Namespace, steps: Steps) -> None:
        self._work: Path = options.work
        self._tokenizer: Path = options.tokenizer
        self._tiny: bool = options.tiny
        self._per_topic: int = 1 if options.tiny else options.per_topic
        self._repeats = 2 if options.tiny else REPEATS
        self._steps = steps
        self._nvml = Nvml()
        self._base = load_settings()
        self._sites: dict[str, Site] = {}
        self._starts: dict[str, Any] = {}
        self._demo = threading.Thread(target=self._demo_steps, daemon=True)
        self._hurry = threading.Event()
        self._sampler = Sampler(self._nvml, self._engines)

    # The steps, in order.

    def weights(self) -> Any:
        names = ("tiny-llava", "tiny-qwen2.5-vl") if self._tiny else ("llava-1.5-7b", "qwen2.5-vl-3b")
        self._writers = [write_weights(name, self._tokenizer, self._work / name) for name in names]
        self._llava, self._qwen = (str(self._work / name) for name in names)
        if not self._tiny:
            self._demo.start()
        wait_for(self._writers)
        if self._tiny:
            self._demo.start()
        return {name: (self._work / name / "model.safetensors").stat().st_size for name in names}

    def start(self) -> Any:
        """Two homes load side by side; the demo's questions are answered meanwhile, and awaited."""
        self._open(
            "llava",
            self._lane("llava-pt", EngineKind.PYTORCH, self._llava),
            self._lane("llava-hf", EngineKind.TRANSFORMERS, self._llava),
        )
        self._open(
            "qwen",
            self._lane("qwen-tm", EngineKind.TURBOMIND, self._qwen),
            self._lane("qwen-hf", EngineKind.TRANSFORMERS, self._qwen),
        )
        threads = [threading.Thread(target=self._start, args=(name,)) for name in ("llava", "qwen")]
        for thread in threads:
            thread.start()
        for thread in (*threads, self._demo):
            thread.join(max(1.0, self._steps.left_s - MEASURE_S))
        self._hurry.set()
        self._demo.join(10)
        self._sampler.start()
        return {**self._starts, "memory": self._memory(), "demo_still_runs": self._demo.is_alive()}

    def measure(self) -> Any:
        found: dict[str, Any] = {}
        for site in (self._sites["llava"], self._sites["qwen"]):
            for lane in site.lanes:
                if self._starts.get(lane.name, {}).get("healthy_after_s") is None:
                    continue
                try:
                    found[lane.name] = self._lane_facts(site, lane)
                except RuntimeError as error:
                    found[lane.name] = {"error": str(error)}
                self._steps.put("measure", {"result": found})
                tell(f"{lane.name} measured; {self._steps.left_s:.0f} s left")
        return found

    def close(self) -> None:
        self._sampler.close()
        closing = [threading.Thread(target=site.manager.close) for site in self._sites.values()]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join(60)

    # The demo model, in a thread of its own.

    def _demo_steps(self) -> None:
        if self._steps.run("demo start", self._start_demo):
            self._steps.run("demo", self._examine)

    def _start_demo(self) -> Any:
        settings = self._home("demo")
        if self._tiny:
            model = ModelSpec(name="tiny-llava", checkpoint=self._llava)
        else:
            model = prepare_vision(settings, tell)
        self._open(
            "demo",
            self._lane("demo-hf", EngineKind.TRANSFORMERS, model.checkpoint),
            self._lane("demo-pt", EngineKind.PYTORCH, model.checkpoint),
        )
        self._start("demo")
        return {name: facts for name, facts in self._starts.items() if name.startswith("demo")}

    def _examine(self) -> Any:
        site = self._sites["demo"]
        lanes = [lane for lane in site.lanes if lane.name in healthy(self._starts)]
        return examine(site, lanes, self._per_topic, self._hurry)

    # The large models.

    def _lane_facts(self, site: Site, lane: LaneSpec) -> dict[str, Any]:
        asker = Asker(site, lane, self._sampler)
        # The first round is unscored: kernels are compiled, caches filled.
        rows = [asker.row(SIZES_PX[number % len(SIZES_PX)], number) for number in range(self._repeats + 1)][
            1:
        ]
        return {
            "engine": self._version(site, lane),
            "output_tokens": asker.output_tokens,
            "refusal": refusal(lane),
            "rows": rows,
            "medians": {
                kind: {
                    figure: known_median(row[kind][figure] for row in rows)
                    for figure in ("ttft_s", "decode_tok_per_s", "prompt_tokens")
                }
                for kind in ("text", "text as long", "image")
            },
            "peak_gpu_bytes": max((row["image"]["peak_gpu_bytes"] or 0 for row in rows), default=None),
            "turns": asker.three_turns(),
        }

    # Parts of steps.

    def _home(self, name: str) -> Settings:
        return replace(self._base, home=self._work / f"home-{name}")

    def _lane(self, name: str, kind: EngineKind, checkpoint: str) -> LaneSpec:
        model = ModelSpec(name=Path(checkpoint).name, checkpoint=checkpoint)
        if self._tiny:
            settings = EngineSettings(device="cpu", dtype="float32" if name.endswith("hf") else "bfloat16")
            return LaneSpec(name=name, kind=EngineKind.TRANSFORMERS, model=model, settings=settings)
        settings = EngineSettings(dtype="float16", start_timeout_s=START_S)
        if kind is not EngineKind.TRANSFORMERS:
            settings = replace(settings, max_batch_size=8, cache_max_entry_count=KV_RATIO)
        return LaneSpec(name=name, kind=kind, model=model, settings=settings)

    def _open(self, name: str, *lanes: LaneSpec) -> None:
        settings = self._home(name)
        settings.home.mkdir(parents=True, exist_ok=True)
        manager = EngineManager(settings, lanes, gpu=self._nvml)
        self._sites[name] = Site(settings, lanes, manager, EngineWatch(settings))

    def _start(self, name: str) -> None:
        site = self._sites[name]
        self._starts |= start_engines(site.manager, site.lanes, START_S)

    def _engines(self) -> Any:
        return tuple(process for site in tuple(self._sites.values()) for process in site.watch())

    def _memory(self) -> Any:
        """What each engine holds on the GPU, with all of them idle."""
        sample = self._sampler.sample()
        shares = {
            engine.name: {"used_bytes": share.used_bytes, "source": share.source}
            for engine in sample.engines
            for share in engine.gpu_memory
        }
        return {"gpu_used_bytes": [gpu.used_bytes for gpu in sample.gpus], "engines": shares}

    def _version(self, site: Site, lane: LaneSpec) -> str | None:
        endpoint = find_endpoint(site.settings, lane)
        return endpoint.version if endpoint else None


def main() -> None:
    parser = arguments(__doc__, out="the JSON file", work="/tmp/lmdyno-vision", limit_s=280.0)
    parser.add_argument("--per-topic", type=int, default=20, help="questions of the exam for each topic")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    steps = Steps(options.out, options.limit_s)
    run = Vision(options, steps)
    try:
        if steps.run("weights", run.weights) and steps.run("start", run.start, needs_s=60):
            steps.run("measure", run.measure, needs_s=20)
    finally:
        run.close()
        tell(f"over after {options.limit_s - steps.left_s:.0f} s")


if __name__ == "__main__":
    main()
