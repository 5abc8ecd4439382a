"""Take the steps of a walk on this machine.

Each step starts the engines that it needs and ends them again, so that the next one finds the memory free. It
raises LMDynoError if it fails; whoever calls it makes that the step's result. The client and pipeline
programs run with an engine's Python, and what they print is read.
"""

import asyncio
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from core.bench.memory_sweep import Sweeper, SweepPlan, SweepPoint
from core.cluster.control import Engines
from core.codec import decode
from core.config import LaneRegistry
from core.doctor import examine
from core.doctor.fitness import Status
from core.domain.conversation import Exchange, Sampling, StoredImage, messages_for
from core.domain.specs import Endpoint, EngineKind, LaneSpec, ModelSpec
from core.domain.turns import Mode, RequestPlan, RequestRecord, TurnPlan, new_id
from core.domain.walk import Answer, Figure, Unit
from core.engines.launch.table import LAUNCH_TABLE, LaunchRow, launch_table, model_path, new_key, python_of
from core.engines.manager import EngineManager
from core.engines.recipes import recipes
from core.engines.resolve import find_endpoint
from core.engines.supervisor import free_port
from core.errors import EngineError, LMDynoError
from core.i18n import N_, Text
from core.images.gallery import gallery
from core.images.sanitise import sanitise
from core.images.store import ImageStore
from core.jobs.registry import Jobs, JobState
from core.meter.turns import run_and_keep
from core.models.job import DEMO_OPTIONS, quantize, read_provenance
from core.settings import Settings
from core.telemetry.nvml import Nvml

PROMPTS = ("What is the capital of Japan?", "Explain what a GPU is.")
"""Prompts on which the demo model answers alike in every number format, so lanes can be compared."""
IMAGE_QUESTIONS = ("How many shapes are there?", "What color is the circle?")
RATIOS = (0.8, 0.4, 0.05)
AWQ_RATIO = 0.4

_SAMPLING = Sampling(temperature=0.0, max_tokens=64)
_IMAGE = "three-shapes"
_QUANTISE_TIMEOUT_S = 1800.0
_SERVER = "api-server"
"""The name under which both engines serve, so that a client sees one model id."""

_HERE = Path(__file__).parent
_CLIENT, _PIPELINE = _HERE / "client_program.py", _HERE / "pipeline_program.py"
_TIMEOUT_S = 240.0
_TAIL_CHARS = 600


@dataclass(frozen=True, slots=True, kw_only=True)
class WalkPlan:
    """The lanes of a walk; None where the machine has none of that kind."""

    model: ModelSpec
    transformers: LaneSpec | None
    turbomind: LaneSpec | None
    awq: LaneSpec | None
    vision: LaneSpec | None
    left_out: tuple[LaneSpec, ...] = ()
    """Lanes of the model, or with images, that belong to other nodes."""

    @property
    def lanes(self) -> tuple[LaneSpec, ...]:
        lanes = (self.transformers, self.turbomind, self.awq, self.vision)
        return tuple(lane for lane in lanes if lane is not None)


def with_nodes(lanes: Sequence[LaneSpec]) -> str:
    """Such as `fast (gpu-1), small (gpu-2)`."""
    return ", ".join(f"{lane.name} ({lane.node})" for lane in lanes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One answer that a program got."""

    text: str
    duration_s: float
    ttft_s: float | None = None
    output_tokens: int | None = None
    kind: str = ""


@dataclass(slots=True)
class Notes:
    """The results of a step as it goes; kept even if it fails half-way."""

    by_hand: str = ""
    figures: list[Figure] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)
    notes: list[Text] = field(default_factory=list)

    def seconds(self, label: Text, value: float | None) -> None:
        self.figures.append(Figure(label=label, value=value, unit=Unit.SECONDS))

    def speed(self, label: Text, value: float | None) -> None:
        self.figures.append(Figure(label=label, value=value, unit=Unit.SPEED))


class Walker:
    """The steps over one plan; `tell` hears what is waited for. Belongs to one event loop."""

    def __init__(
        self,
        settings: Settings,
        registry: LaneRegistry,
        plan: WalkPlan,
        *,
        nvml: Nvml,
        tell: Callable[[Text], None],
        rows: Mapping[EngineKind, LaunchRow] = LAUNCH_TABLE,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._plan = plan
        self._nvml = nvml
        self._tell = tell
        self._rows = rows

    async def environment(self, notes: Notes) -> None:
        """Note what the doctor says of this machine and the walk's lanes, and which lanes are left out."""
        notes.by_hand = "lmdyno doctor"
        if self._plan.left_out:
            notes.notes.append(
                N_(
                    "Lanes of other nodes were left out: {lanes}. To include them, start the walk on their "
                    "node.",
                    lanes=with_nodes(self._plan.left_out),
                )
            )
        diagnosis = await asyncio.to_thread(examine, self._settings, self._registry, nvml=self._nvml)
        for finding in diagnosis.findings:
            if finding.status is not Status.INFO:
                notes.notes.append(N_("{what}: {detail}", what=finding.subject, detail=finding.detail))

    async def chat(self, lane: LaneSpec, notes: Notes) -> None:
        """Start the lane's engine and ask each prompt cold and warm."""
        notes.by_hand = self._recipe(lane)
        with closing(Engines(self._settings, [lane])) as engines:
            ran_before = self._runs(lane)
            began = time.monotonic()
            await engines.ready(lane, self._tell)
            if ran_before:
                notes.notes.append(N_("The engine was already running, so its start was not timed."))
            else:
                notes.seconds(N_("start of the engine"), time.monotonic() - began)
            for number, prompt in enumerate(PROMPTS, start=1):
                for temperature in ("cold", "warm"):
                    record = await self._ask(lane, prompt)
                    values = {"number": number, "kind": temperature}
                    notes.seconds(N_("prompt {number}, {kind}: end to end", **values), record.e2e_s)
                    notes.seconds(N_("prompt {number}, {kind}: TTFT", **values), record.ttft_s)
                    notes.speed(
                        N_("prompt {number}, {kind}: decode speed", **values), record.decode_tok_per_s
                    )
                notes.answers.append(Answer(who=lane.name, prompt=prompt, text=record.text))

    async def kv_cache(self, notes: Notes) -> None:
        """Predicted and measured memory at several KV cache ratios."""
        notes.by_hand = f"lmdyno memory sweep {self._plan.model.name} " + " ".join(
            f"--ratio {ratio:g}" for ratio in RATIOS
        )
        gpu = self._gpu()
        plan = SweepPlan(
            model=self._plan.model, points=tuple(SweepPoint(ratio=ratio) for ratio in RATIOS), gpu=gpu
        )
        sweeper = Sweeper(self._settings, plan, nvml=self._nvml, rows=self._rows)
        run = await asyncio.to_thread(sweeper.run, lambda _run: None)
        for result in run.points:
            ratio = f"{result.point.ratio:g}"
            if result.error:
                notes.notes.append(N_("Ratio {ratio}: {problem}", ratio=ratio, problem=result.error.message))
            for label, value in (
                (N_("ratio {ratio}: measured", ratio=ratio), result.measured_bytes),
                (N_("ratio {ratio}: predicted", ratio=ratio), result.predicted_bytes),
            ):
                notes.figures.append(Figure(label=label, value=value, unit=Unit.BYTES))
            error = N_("ratio {ratio}: predicted over measured", ratio=ratio)
            notes.figures.append(Figure(label=error, value=result.total_error_ratio, unit=Unit.RATIO))

    async def quantise(self, notes: Notes) -> None:
        """Make the W4A16 form unless it is there; show how it was made."""
        model = self._plan.model
        notes.by_hand = f"lmdyno quantize {model.name}"
        folder = Path(model.awq).expanduser() if model.awq else None
        if folder is not None and (folder / "config.json").is_file():
            notes.notes.append(N_("The W4A16 weights already existed and are used as they are."))
        else:
            jobs = Jobs(self._settings)
            job_id = await asyncio.to_thread(quantize, self._settings, model, DEMO_OPTIONS)
            status = await asyncio.to_thread(jobs.wait, job_id, _QUANTISE_TIMEOUT_S)
            if status.state is not JobState.DONE:
                raise EngineError(
                    N_("The quantisation job ended with state {state}.", state=status.state),
                    hint=N_("Run `lmdyno quantize {model}` to see why.", model=model.name),
                    code="quantise-failed",
                )
        provenance = read_provenance(folder) if folder is not None else None
        if provenance is None:
            notes.notes.append(N_("LMDyno didn't quantise these weights, so their calibration is unknown."))
            return
        notes.notes.append(N_("Calibrated on: {text}.", text=provenance.calibration))
        for label, value in (
            (N_("16-bit weights"), provenance.source_bytes),
            (N_("W4A16 weights"), provenance.result_bytes),
        ):
            notes.figures.append(Figure(label=label, value=value, unit=Unit.BYTES))
        notes.seconds(N_("duration of the quantisation"), provenance.duration_s)

    async def server(self, notes: Notes) -> None:
        """The same client against 16-bit, then AWQ weights at the same address."""
        lanes = [lane for lane in (self._plan.turbomind, self._plan.awq) if lane is not None]
        lanes = lanes or [lane for lane in (self._plan.transformers,) if lane is not None]
        notes.by_hand = self._recipe(lanes[0], language="bash")
        port, key = free_port("127.0.0.1"), new_key()
        # A client that notices nothing needs the same key for both.
        rows = launch_table(lambda: key)
        models = set()
        for lane in lanes:
            served = replace(lane, name=_SERVER)
            manager = EngineManager(self._settings, [served], gpu=self._nvml, rows=rows, port=port)
            try:
                began = time.monotonic()
                manager.ensure(_SERVER)
                await asyncio.to_thread(manager.wait_until_healthy, _SERVER, lane.settings.start_timeout_s)
                notes.seconds(N_("{lane}: start of the server", lane=lane.name), time.monotonic() - began)
                endpoint = find_endpoint(self._settings, served)
                if endpoint is None:
                    raise EngineError(
                        N_("The server exited before a client connected."), code="engine-crashed"
                    )
                output = await run_client(python_of(lane), endpoint, PROMPTS)
            finally:
                await asyncio.to_thread(manager.close)
            models.add(output.model)
            self._add_calls(notes, lane.name, output.calls)
            if output.listed:
                notes.notes.append(
                    N_(
                        "{lane}: `/v1/models` lists {model}. The server's interactive API page is "
                        "at its root.",
                        lane=lane.name,
                        model=output.model,
                    )
                )
            else:
                notes.notes.append(N_("{lane}: the server doesn't list its models.", lane=lane.name))
        if len(lanes) > 1 and len(models) == 1:
            notes.notes.append(N_("The client saw the same address and model ID, so it notices no change."))
        elif len(lanes) > 1:
            notes.notes.append(N_("The client would notice, because the model IDs differ."))

    async def pipeline(self, notes: Notes) -> None:
        """LMDeploy's Python pipeline: default, with an engine configuration, and with AWQ weights."""
        lane = self._plan.turbomind
        assert lane is not None
        notes.by_hand = self._recipe(lane, title="pipeline")
        cases: list[tuple[Text, LaneSpec, dict[str, object] | None]] = [
            (N_("default"), lane, None),
            (
                N_("TurbomindEngineConfig"),
                lane,
                {"cache_max_entry_count": AWQ_RATIO, "session_len": lane.settings.session_len},
            ),
        ]
        if self._plan.awq is not None:
            quantised: dict[str, object] = {"cache_max_entry_count": AWQ_RATIO, "model_format": "awq"}
            cases.append((N_("AWQ"), self._plan.awq, quantised))
        for name, served, config in cases:
            self._tell(N_("Pipeline: {name}", name=name))
            request = {
                "model": model_path(served),
                "engine": "turbomind",
                "config": config,
                "prompts": list(PROMPTS),
            }
            output = await run_pipeline(python_of(served), request, gpu=self._gpu())
            notes.seconds(N_("{name}: loading", name=name), output.load_s)
            for number, call in enumerate(output.calls):
                label = N_(
                    "{name}: prompt {number}, {kind}", name=name, number=number // 2 + 1, kind=call.kind
                )
                notes.seconds(label, call.duration_s)
            notes.answers.append(Answer(who=name, prompt=PROMPTS[0], text=output.calls[0].text))

    async def image(self, notes: Notes) -> None:
        """An image question with a follow-up through the server, and through the pipeline on a GPU."""
        lane = self._plan.vision
        assert lane is not None
        notes.by_hand = self._recipe(lane)
        source = next(entry for entry in gallery() if entry.name == _IMAGE)
        image = ImageStore(self._settings.images_dir).put(
            sanitise(source.path.read_bytes(), name=source.path.name)
        )
        with closing(Engines(self._settings, [lane])) as engines:
            await engines.ready(lane, self._tell)
            first = await self._ask(lane, IMAGE_QUESTIONS[0], images=(image,))
            asked = Exchange(IMAGE_QUESTIONS[0], first.text, (image,))
            follow_up = await self._ask(lane, IMAGE_QUESTIONS[1], earlier=(asked,))
        for number, (question, record) in enumerate(
            zip(IMAGE_QUESTIONS, (first, follow_up), strict=True), start=1
        ):
            notes.seconds(N_("question {number}: end to end", number=number), record.e2e_s)
            notes.answers.append(Answer(who=lane.name, prompt=question, text=record.text))
        if lane.kind is EngineKind.PYTORCH:
            request = {
                "model": model_path(lane),
                "engine": "pytorch",
                "config": {"session_len": lane.settings.session_len},
                "prompts": [],
                "image": str(source.path),
                "questions": list(IMAGE_QUESTIONS[:1]),
            }
            output = await run_pipeline(python_of(lane), request, gpu=self._gpu())
            notes.seconds(N_("pipeline: loading"), output.load_s)
            notes.seconds(N_("pipeline: (text, image)"), output.calls[0].duration_s)
            notes.answers.append(
                Answer(who=N_("pipeline"), prompt=IMAGE_QUESTIONS[0], text=output.calls[0].text)
            )

    async def publish(self, notes: Notes) -> None:
        """Note where the documentation says how to share the dashboard."""
        notes.by_hand = "docker compose -f deploy/compose.yaml up"
        notes.notes.append(
            N_("Sharing, logins, and reverse proxies: see the guide “Publish” in docs/publish.md.")
        )

    async def _ask(
        self,
        lane: LaneSpec,
        prompt: str,
        *,
        images: tuple[StoredImage, ...] = (),
        earlier: tuple[Exchange, ...] = (),
    ) -> RequestRecord:
        """One measured request, kept in the history; raises the error that it ended with."""
        plan = TurnPlan(
            conversation_id=new_id(),
            prompt=prompt,
            mode=Mode.ONE_AFTER_ANOTHER,
            sampling=_SAMPLING,
            images=images,
            requests=(RequestPlan(lane=lane, messages=messages_for(prompt, earlier=earlier, images=images)),),
        )
        (record,) = await run_and_keep(self._settings, plan)
        if record.error:
            raise LMDynoError(record.error.message, hint=record.error.hint, code=record.error.code)
        return record

    def _runs(self, lane: LaneSpec) -> bool:
        try:
            return find_endpoint(self._settings, lane) is not None
        except EngineError:
            return False

    def _add_calls(self, notes: Notes, lane: str, calls: tuple[Call, ...]) -> None:
        for number, (prompt, call) in enumerate(zip(PROMPTS, calls, strict=True), start=1):
            notes.seconds(N_("{lane}: prompt {number}", lane=lane, number=number), call.duration_s)
            notes.answers.append(Answer(who=lane, prompt=prompt, text=call.text))

    def _recipe(self, lane: LaneSpec, *, title: str = "", language: str = "") -> str:
        """The command or program that does by hand what the lane does."""
        offered = recipes(lane, sampling=_SAMPLING)
        fitting = [r for r in offered if title.lower() in r.title.lower() and language in r.language]
        return next((recipe.code for recipe in fitting or offered), "")

    def _gpu(self) -> int:
        """The GPU with the most free memory."""
        gpus = self._nvml.devices()
        return max(gpus, key=lambda gpu: gpu.free_bytes or 0).index if gpus else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOutput:
    model: str
    """The id that the server lists first, or that it was asked for."""
    listed: bool
    """Whether `/v1/models` answered."""
    calls: tuple[Call, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineOutput:
    load_s: float
    calls: tuple[Call, ...]


async def run_client(python: str, endpoint: Endpoint, prompts: Sequence[str]) -> ClientOutput:
    """Ask the prompts of a server with the OpenAI package; raises EngineError if the program fails."""
    environment = {"OPENAI_API_KEY": endpoint.api_key or "none"}
    return decode(
        ClientOutput, await _run(python, _CLIENT, [endpoint.url, endpoint.model], list(prompts), environment)
    )


async def run_pipeline(python: str, request: Mapping[str, Any], *, gpu: int) -> PipelineOutput:
    """Run LMDeploy's pipeline on one GPU; raises EngineError if the program fails."""
    environment = {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": str(gpu),
        "HF_HUB_OFFLINE": "1",
        "TM_LOG_LEVEL": "ERROR",
    }
    return decode(PipelineOutput, await _run(python, _PIPELINE, [], request, environment))


async def _run(
    python: str, program: Path, arguments: Sequence[str], request: object, environment: Mapping[str, str]
) -> str:
    """The last line that the program prints."""
    child = await asyncio.create_subprocess_exec(
        *(python, str(program), *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    try:
        output, errors = await asyncio.wait_for(
            child.communicate(json.dumps(request).encode()), timeout=_TIMEOUT_S
        )
    except TimeoutError:
        raise EngineError(
            N_(
                "{program} didn't finish within {seconds} s.",
                program=program.name,
                seconds=f"{_TIMEOUT_S:g}",
            ),
            hint=N_("Run the command manually to see where it waits."),
            code="program-timeout",
        ) from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode != 0:
        raise EngineError(
            N_("{program} failed with exit code {code}.", program=program.name, code=child.returncode or 0),
            hint=N_("It printed: {text}", text=errors.decode(errors="replace").strip()[-_TAIL_CHARS:]),
            code="program-failed",
        )
    return output.decode(errors="replace").strip().rsplit("\n", 1)[-1]
