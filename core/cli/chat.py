"""`chat`: one prompt, with or without images, to several lanes, each answer with its measured latency."""

import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from core import units
from core.cli import context
from core.cli.engines import stage_text
from core.cli.terminal import error_text, terminal
from core.cluster.control import EngineControl, engines_of
from core.codec import encode_plain
from core.config import load_cluster
from core.domain.conversation import MAX_IMAGES, Sampling, StoredImage
from core.domain.specs import LaneSpec
from core.domain.turns import (
    ChatSettings,
    FinishReason,
    Mode,
    Phase,
    RequestRecord,
    TurnPlan,
    new_id,
    plan_turn,
)
from core.engines.manager import EngineStatus
from core.errors import EngineError, InputError, StoreError
from core.i18n import N_, _
from core.meter.protocol import Update
from core.meter.turns import run_and_keep
from core.models.context import image_cost, not_sendable
from core.settings import Settings
from core.telemetry.nvml import Nvml

STOPPED_EXIT_CODE = 130

progress = terminal(stderr=True)
output = terminal()


def chat(
    prompt: Annotated[str, typer.Argument(help=_("The question for every lane."))],
    lane: context.LaneNames = None,
    endpoint: context.EndpointUrls = None,
    model: context.EndpointModels = None,
    api_key: context.EndpointKeys = None,
    dialect: context.EndpointDialect = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help=_("Image to ask about. Repeat for more images.")),
    ] = None,
    together: Annotated[
        bool, typer.Option("--together", help=_("Ask all lanes at once instead of one after another."))
    ] = False,
    system: Annotated[str, typer.Option(help=_("System prompt."))] = "",
    temperature: Annotated[float, typer.Option(help=_("Sampling temperature. 0 is greedy decoding."))] = 0.0,
    top_p: Annotated[float, typer.Option(help=_("Nucleus sampling threshold."))] = 1.0,
    seed: Annotated[int | None, typer.Option(help=_("Seed for sampling."))] = None,
    max_tokens: Annotated[int, typer.Option(help=_("Maximum answer length in tokens."))] = 512,
    fixed_length: Annotated[
        bool,
        typer.Option(
            "--fixed-length", help=_("Generate exactly --max-tokens tokens, ignoring end-of-sequence.")
        ),
    ] = False,
    as_json: context.AsJson = False,
) -> None:
    """Ask several lanes the same question and print each answer with its measured latency."""
    settings, registry = context.load()
    endpoints = context.EndpointChoice(urls=endpoint, models=model, keys=api_key, dialect=dialect)
    lanes = context.chosen_lanes(settings, registry, lane, endpoints)
    shown = _taken_in(settings, image or [])
    chosen = ChatSettings(
        lanes=lanes,
        mode=Mode.TOGETHER if together else Mode.ONE_AFTER_ANOTHER,
        system_prompt=system,
        sampling=Sampling(
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            max_tokens=max_tokens,
            fixed_length=fixed_length,
        ),
    )
    plan = plan_turn(prompt, chosen, conversation_id=new_id(), turns=(), images=shown)
    if shown and not as_json:
        progress.print("\n".join(_image_lines(shown, lanes)))
    records = _ask(settings, plan, quiet=as_json)
    if as_json:
        typer.echo(
            encode_plain(
                {
                    "turn_id": plan.id,
                    "mode": plan.mode,
                    "images": _image_facts(shown, lanes),
                    "lanes": [_result(r) for r in records],
                }
            )
        )
    else:
        output.print(_table(records))
    if any(record.finish_reason is FinishReason.CANCELLED for record in records):
        raise typer.Exit(STOPPED_EXIT_CODE)
    if any(record.error for record in records):
        raise typer.Exit(1)


def _taken_in(settings: Settings, files: Sequence[Path]) -> tuple[StoredImage, ...]:
    if len(files) > MAX_IMAGES:
        raise InputError(
            N_("Too many images ({n}).", n=len(files)),
            hint=N_("Choose at most {most} images per question.", most=MAX_IMAGES),
        )
    return context.stored_images(settings, files)


def _ask(settings: Settings, plan: TurnPlan, *, quiet: bool) -> tuple[RequestRecord, ...]:
    local = [
        request.lane
        for request in plan.requests
        # What is refused in the turn needs no engine.
        if request.lane.is_local and not_sendable(request.lane, request.messages) is None
    ]
    manager = engines_of(settings, local, load_cluster(settings), gpu=Nvml(), wait=True)
    try:
        _start_engines(manager, local, quiet=quiet)
        return asyncio.run(_measure(settings, plan, _Printer(plan, quiet=quiet)))
    finally:
        manager.close()


def _start_engines(manager: EngineControl, lanes: Sequence[LaneSpec], *, quiet: bool) -> None:
    """Start what isn't running; an engine that fails here becomes its own lane's error in the turn."""
    for spec in lanes:
        manager.ensure(spec.name)
    for spec in lanes:
        with progress.status(stage_text(spec.name)) as status:

            def show(now: EngineStatus) -> None:
                status.update(stage_text(now.name, now))

            try:
                manager.wait_until_healthy(
                    spec.name, spec.settings.start_timeout_s, on_progress=None if quiet else show
                )
            except EngineError:
                continue


async def _measure(settings: Settings, plan: TurnPlan, printer: "_Printer") -> tuple[RequestRecord, ...]:
    cancel = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, cancel.set)
    return await run_and_keep(
        settings, plan, on_update=printer.show, cancel=cancel, on_problem=_tell_not_stored
    )


def _tell_not_stored(error: StoreError) -> None:
    text = _("Not stored: {message} {hint}", message=error.message, hint=error.hint)
    progress.print(text)


class _Printer:
    """Streams answers to the terminal: one after another as they come, together when each is done."""

    def __init__(self, plan: TurnPlan, *, quiet: bool) -> None:
        self._lanes = {request.id: request.lane.name for request in plan.requests}
        self._live = plan.mode is Mode.ONE_AFTER_ANOTHER or len(plan.requests) == 1
        self._quiet = quiet
        self._headed: set[str] = set()
        self._thinking = False
        """The last text was reasoning."""

    def show(self, update: Update) -> None:
        if self._quiet:
            return
        if self._live and (update.content or update.reasoning):
            self._head(update.request_id)
            self._text(update.reasoning, update.content)
        if update.phase is Phase.DONE and update.record:
            self._head(update.request_id)
            if not self._live:
                self._text(update.record.reasoning, update.record.text)
            output.print()
            if error := update.record.error:
                output.print(error_text(error))
            for note in update.record.notes:
                output.print(_(note), style="dim")

    def _text(self, reasoning: str, content: str) -> None:
        if reasoning:
            output.out(reasoning, style="dim", end="")
            self._thinking = True
        if content:
            output.out(f"\n\n{content}" if self._thinking else content, end="")
            self._thinking = False

    def _head(self, request_id: str) -> None:
        if request_id not in self._headed:
            self._headed.add(request_id)
            output.rule(self._lanes[request_id], align="left")


def _image_facts(images: Sequence[StoredImage], lanes: Sequence[LaneSpec]) -> list[dict[str, Any]]:
    """For JSON output; what a lane's model sees is None where its arithmetic is not known."""
    return [
        {
            "name": image.name,
            "sha256": image.sha256,
            "width_px": image.width_px,
            "height_px": image.height_px,
            "lanes": {lane.name: image_cost(lane, image) for lane in lanes},
        }
        for image in images
    ]


def _image_lines(images: Sequence[StoredImage], lanes: Sequence[LaneSpec]) -> list[str]:
    """For a person: a line an image and, below it, one for each lane of which it is known what it sees."""
    texts = []
    for image in images:
        texts.append(f"{image.name}: {image.width_px} × {image.height_px} px")
        texts += [
            "  "
            + _(
                "{lane}: {tokens} tokens at {width} × {height} px",
                lane=lane.name,
                tokens=units.count(cost.tokens),
                width=cost.width_px,
                height=cost.height_px,
            )
            for lane in lanes
            if (cost := image_cost(lane, image))
        ]
    return texts


def _result(record: RequestRecord) -> dict[str, Any]:
    return {
        "lane": record.lane.name,
        "text": record.text,
        "reasoning": record.reasoning,
        "finish_reason": record.finish_reason,
        "prompt_tokens": record.prompt_tokens,
        "cached_tokens": record.cached_tokens,
        "output_tokens": record.output_tokens,
        "ttft_s": record.ttft_s,
        "reasoning_ttft_s": record.timing.reasoning_ttft_s if record.timing else None,
        "tpot_s": record.tpot_s,
        "e2e_s": record.e2e_s,
        "decode_tok_per_s": record.decode_tok_per_s,
        "notes": record.notes,
        "error": record.error,
    }


def _table(records: Sequence[RequestRecord]) -> Table:
    table = Table(_("Lane"), "TTFT", _("Decode"), "E2E", _("Tokens in"), _("Tokens out"), _("Finish reason"))
    for record in records:
        table.add_row(
            record.lane.name,
            units.milliseconds(record.ttft_s),
            units.tok_per_s(record.decode_tok_per_s),
            units.milliseconds(record.e2e_s),
            units.count(record.prompt_tokens),
            units.count(record.output_tokens),
            record.finish_reason or units.UNKNOWN,
        )
    return table
