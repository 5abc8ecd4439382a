"""What one lane is asked in a quality run: prompts and tasks of the plan, and those of another program.

Prompts and tasks go one after another through the meter's own code. Tasks of lm-evaluation-harness are asked
by that program where it is installed: it runs as `python -m lm_eval` and fetches its tasks by itself; its
result is read. Only tasks whose answers are generated work over a chat endpoint.
"""

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from core.domain.conversation import StoredImage, messages_for
from core.domain.runs import ExternalScore, Prompted, QualityAnswer
from core.domain.specs import Endpoint, LaneSpec
from core.domain.turns import FinishReason, RequestPlan, RequestRecord, TurnPlan
from core.engines.registry import lease
from core.engines.requests import StoppedRequests
from core.engines.resolve import find_endpoint
from core.errors import EngineError, EngineNotInstalled
from core.i18n import N_
from core.images.store import ImageStore
from core.meter.devices import DeviceQueue, UsageMeter
from core.meter.turns import run_turn
from core.quality.engine_child import end
from core.quality.plan import QualityPlan
from core.settings import Settings

PROGRAM = "lm-evaluation-harness"
_MODULE = "lm_eval"
_LOG_CHARS = 400


@dataclass(frozen=True, slots=True)
class Asked:
    """One request of a lane."""

    part: Prompted
    item: int
    repeat: int
    text: str
    max_tokens: int
    image: StoredImage | None = None


def requests_of(plan: QualityPlan, lane: LaneSpec) -> Iterator[Asked]:
    """Yield what a lane is asked, in order; the reference gets the prompts twice, the second time
    at the end.
    """
    for place, prompt in enumerate(plan.prompts):
        yield Asked(Prompted.PROMPT, place, 0, prompt, plan.answer_tokens)
    for place, task in enumerate(plan.tasks):
        yield Asked(Prompted.TASK, place, 0, task.text, task.max_tokens, task.image)
    if plan.repeat_reference and lane.name == plan.reference:
        for place, prompt in enumerate(plan.prompts):
            yield Asked(Prompted.PROMPT, place, 1, prompt, plan.answer_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """The parts of the program that asking uses."""

    settings: Settings
    devices: DeviceQueue
    usage: UsageMeter | None
    stopped: StoppedRequests
    stop: asyncio.Event

    async def ask(self, plan: QualityPlan, lane: LaneSpec, asked: Asked) -> RequestRecord:
        """The record of one request; a failure is in it, never raised."""
        images = (asked.image,) if asked.image else ()
        turn = TurnPlan(
            conversation_id=plan.id,
            prompt=asked.text,
            sampling=plan.sampling(asked.max_tokens),
            images=images,
            requests=(RequestPlan(lane=lane, messages=messages_for(asked.text, images=images)),),
        )
        resolve: Callable[[LaneSpec], Endpoint | None] = partial(find_endpoint, self.settings)
        hold: Callable[[str], AbstractContextManager[None]] = partial(lease, self.settings)
        (record,) = await run_turn(
            turn,
            resolve=resolve,
            lease=hold,
            image_url=ImageStore(self.settings.images_dir).data_url,
            devices=self.devices,
            stopped=self.stopped,
            usage=self.usage,
            on_update=lambda _: None,
            cancel=self.stop,
        )
        return record


def answer_of(asked: Asked, record: RequestRecord) -> QualityAnswer:
    """Return what is kept of a request."""
    return QualityAnswer(
        lane=record.lane.name,
        part=asked.part,
        item=asked.item,
        repeat=asked.repeat,
        text=record.text,
        prompt_tokens=record.prompt_tokens,
        finish_reason=record.finish_reason,
        error=record.error,
        timing=record.timing,
    )


def was_stopped(record: RequestRecord) -> bool:
    return record.finish_reason is FinishReason.CANCELLED


def is_installed() -> bool:
    return find_spec(_MODULE) is not None


def require_installed() -> None:
    """Raise EngineNotInstalled where lm-evaluation-harness is missing."""
    if not is_installed():
        raise EngineNotInstalled(
            N_("lm-evaluation-harness isn't installed."),
            hint=N_("Install it with `pip install lm-eval[api]`, or remove its tasks."),
            code="lm-eval-missing",
        )


async def evaluate(endpoint: Endpoint, tasks: Sequence[str], limit: int | None) -> tuple[ExternalScore, ...]:
    """Run the tasks against an endpoint; raises EngineNotInstalled, and EngineError (`lm-eval-failed`)."""
    require_installed()
    with tempfile.TemporaryDirectory(prefix="lmdyno-lm-eval-") as folder:
        # The key travels in the environment: other users see a command line.
        environment = {**os.environ, "OPENAI_API_KEY": endpoint.api_key or "none"}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *_command(endpoint, tasks, limit, Path(folder))),
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            output, _ = await process.communicate()
        finally:
            await end(process)
        files = sorted(Path(folder).rglob("results*.json"))
        if process.returncode or not files:
            raise _failed(output.decode("utf-8", "replace").strip()[-_LOG_CHARS:])
        return read_results(files[-1].read_bytes())


def read_results(content: bytes) -> tuple[ExternalScore, ...]:
    """The scores in a result file of lm-evaluation-harness; raises EngineError (`lm-eval-failed`)."""
    try:
        document = json.loads(content)
        counts = document.get("n-samples", {})
        return tuple(
            ExternalScore(
                program=PROGRAM,
                task=task,
                metric=metric,
                value=float(value),
                standard_error=_number(figures.get(name.replace(",", "_stderr,", 1))),
                n=_count(counts.get(task)),
            )
            for task, figures in document["results"].items()
            for name, value in figures.items()
            if (metric := _metric(name)) and isinstance(value, int | float)
        )
    except (ValueError, LookupError, TypeError, AttributeError) as exc:
        raise _failed(f"{type(exc).__name__}: {exc}") from exc


def _command(endpoint: Endpoint, tasks: Sequence[str], limit: int | None, folder: Path) -> list[str]:
    model = f"model={endpoint.model},base_url={endpoint.url}/chat/completions,num_concurrent=1"
    command = ["-m", _MODULE, "--model", "local-chat-completions", "--model_args", model]
    command += ["--tasks", ",".join(tasks), "--apply_chat_template", "--output_path", str(folder)]
    return command if limit is None else [*command, "--limit", str(limit)]


def _metric(name: str) -> str:
    """`exact_match,strict-match` is a metric with its filter; standard errors and names are none."""
    metric, _, kind = name.partition(",")
    if not kind or metric.endswith("_stderr"):
        return ""
    return metric if kind == "none" else f"{metric} ({kind})"


def _number(value: Any) -> float | None:  # noqa: ANN401 - of a file of somebody else's making
    return float(value) if isinstance(value, int | float) else None


def _count(counts: Mapping[str, Any] | None) -> int | None:
    value = (counts or {}).get("effective")
    return value if isinstance(value, int) else None


def _failed(reason: str) -> EngineError:
    return EngineError(
        N_("lm-evaluation-harness failed: {reason}", reason=reason),
        hint=N_("To see its full log, run it manually with one task."),
        code="lm-eval-failed",
    )
