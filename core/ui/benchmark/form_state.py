"""What the benchmark's form holds: its fields, its uploads, and the plan that they make.

The fields of a plan and the plan of the fields, then the uploads, which are checked and kept at once, then
the values of this session: the first ones, a preset's, and those that a visitor changed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import fields as fields_of_class
from enum import StrEnum
from pathlib import Path
from typing import Any

import streamlit as st

from core.bench.passes import Preset, Speed, preset_plan, speed_of
from core.bench.plan import (
    LIMIT_PRESETS,
    Arrivals,
    BenchPlan,
    Isolation,
    Limits,
    Load,
    LoadKind,
    PromptKind,
    SendFrom,
    Workload,
    parse_limits,
    parse_numbers,
    parse_whole_numbers,
)
from core.bench.prompt_files import PROMPT_ENDINGS
from core.bench.run.job import last_plan
from core.bench.workload import check_sendable, keep_prompt_file
from core.domain.conversation import StoredImage
from core.domain.specs import LaneSpec
from core.domain.turns import ErrorInfo
from core.errors import InputError, LMDynoError, StoreError
from core.i18n import N_, _
from core.images.sanitise import sanitise
from core.ui.shared import resources
from core.ui.shared.components import escape, show_error, show_images

NO_LIMITS = "none"
OWN_LIMITS = "own"

_WITH_IMAGES = "bench_with_images"
_IMAGE_UPLOAD = "bench_image_upload"
_IMAGES = "bench_images"
_IMAGE_PROBLEMS = "bench_image_problems"
_THUMBNAIL_PX = 64

_PROMPT_FILE = "bench_file"
_PROMPT_FILE_ERROR = "bench_file_error"
_PROMPT_FILE_UPLOAD = "bench_upload"

LANES = "bench_lanes"
BASELINE = "bench_baseline"
_PRESET = "bench_preset"
_FIELDS = "bench_fields"

_TURN = "key_turn_"


class Prompts(StrEnum):
    """Sources of prompts in the form."""

    SYNTHETIC = "synthetic"
    EXAMPLES = "examples"
    FILE = "file"


_PROMPTS = {PromptKind.SYNTHETIC: Prompts.SYNTHETIC, PromptKind.EXAMPLES: Prompts.EXAMPLES}
"""The form's word for a plan's kind; all other kinds come from a file."""


class Extent(StrEnum):
    """Conditions that end a point."""

    REQUESTS = "requests"
    SECONDS = "seconds"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFields:
    """Values of the form's fields; each has a widget of its own, shown or not."""

    prompts: Prompts = Prompts.SYNTHETIC
    prompt_tokens: int = 128
    output_tokens: int = 128
    fixed_output: bool = True
    load: LoadKind = LoadKind.CLOSED
    concurrencies: str = "1"
    rates: str = "1"
    arrivals: Arrivals = Arrivals.POISSON
    max_concurrency: int = 64
    extent: Extent = Extent.REQUESTS
    requests: int = 32
    seconds: float = 30.0
    warmup: int = 2
    repeats: int = 1
    isolation: Isolation = Isolation.ISOLATED
    seed: int = 0
    limits: str = NO_LIMITS
    """`NO_LIMITS`, the name of a preset, or `OWN_LIMITS`."""
    own_limits: str = "ttft=0.5,tpot=0.05"
    workers: int | None = None
    """Processes that send the requests; None is automatic."""
    send_from: SendFrom = SendFrom.HERE
    title: str = ""


def fields_of(plan: BenchPlan) -> PlanFields:
    """The fields that make this plan; the prompt file itself and images are not among them."""
    load, workload = plan.load, plan.workload
    fields = PlanFields(
        prompts=_PROMPTS.get(workload.prompts, Prompts.FILE),
        prompt_tokens=workload.prompt_tokens,
        output_tokens=workload.output_tokens,
        fixed_output=workload.fixed_output,
        load=load.kind,
        concurrencies=", ".join(f"{level}" for level in load.concurrencies),
        max_concurrency=load.max_concurrency,
        extent=Extent.REQUESTS if plan.requests is not None else Extent.SECONDS,
        warmup=plan.warmup,
        repeats=plan.repeats,
        isolation=plan.isolation,
        seed=plan.seed,
        workers=plan.workers,
        send_from=plan.send_from,
        title=plan.title,
    )
    if load.kind is LoadKind.OPEN:
        rates = ", ".join(f"{rate!r}".removesuffix(".0") for rate in load.rates_req_per_s)
        fields = replace(fields, rates=rates, arrivals=load.arrivals)
    if plan.limits is not None:
        fields = _with_limits(fields, plan.limits)
    if plan.requests is not None:
        fields = replace(fields, requests=plan.requests)
    if plan.seconds is not None:
        fields = replace(fields, seconds=plan.seconds)
    return fields


def preset_of(plan: BenchPlan) -> Preset | None:
    """The preset that makes the same fields for the plan's lanes; None for a plan of one's own."""
    fields = fields_of(plan)
    return next((preset for preset in Preset if fields_of(preset_plan(preset, plan.lanes)) == fields), None)


def _with_limits(fields: PlanFields, limits: Limits) -> PlanFields:
    for name, preset in LIMIT_PRESETS.items():
        if preset == limits:
            return replace(fields, limits=name)
    given = {"ttft": limits.ttft_s, "tpot": limits.tpot_s, "e2e": limits.e2e_s}
    own = ",".join(f"{name}={seconds!r}" for name, seconds in given.items() if seconds is not None)
    return replace(fields, limits=OWN_LIMITS, own_limits=own)


def plan_of(fields: PlanFields, lanes: Sequence[LaneSpec], file: Workload | None) -> BenchPlan:
    """The plan of the form, the first of the lanes the baseline; raises InputError.

    `file` names the prompt file that was uploaded, if there is one.
    """
    has_number = fields.extent is Extent.REQUESTS
    return BenchPlan(
        lanes=tuple(lanes),
        workload=_workload(fields, file),
        load=_load(fields),
        requests=fields.requests if has_number else None,
        seconds=None if has_number else fields.seconds,
        warmup=fields.warmup,
        repeats=fields.repeats,
        isolation=fields.isolation if len(lanes) > 1 else Isolation.ISOLATED,
        seed=fields.seed,
        limits=_limits(fields),
        workers=fields.workers,
        send_from=fields.send_from,
        title=fields.title.strip(),
    )


def _workload(fields: PlanFields, file: Workload | None) -> Workload:
    workload = Workload(
        prompts=PromptKind.EXAMPLES if fields.prompts is Prompts.EXAMPLES else PromptKind.SYNTHETIC,
        prompt_tokens=fields.prompt_tokens,
        output_tokens=fields.output_tokens,
        fixed_output=fields.fixed_output,
    )
    if fields.prompts is not Prompts.FILE:
        return workload
    if file is None:
        raise InputError(
            N_("No prompt file is chosen."),
            hint=N_("Upload a text, JSONL, or ShareGPT-style JSON file, or choose other prompts."),
        )
    return replace(workload, prompts=file.prompts, path=file.path)


def _load(fields: PlanFields) -> Load:
    match fields.load:
        case LoadKind.CLOSED:
            return Load(concurrencies=parse_whole_numbers(N_("Concurrency"), fields.concurrencies))
        case LoadKind.OPEN:
            rates = parse_numbers(N_("Requests per second"), fields.rates)
            return Load(kind=LoadKind.OPEN, rates_req_per_s=rates, arrivals=fields.arrivals)
        case LoadKind.SWEEP:
            return Load(kind=LoadKind.SWEEP, max_concurrency=fields.max_concurrency)


def _limits(fields: PlanFields) -> Limits | None:
    if fields.limits == NO_LIMITS:
        return None
    return parse_limits(fields.own_limits if fields.limits == OWN_LIMITS else fields.limits)


def show_images_field(on_change: Callable[[], None]) -> None:
    """The switch and, where it is on, the images; `on_change` as for the form's other fields."""
    is_on = st.toggle(
        _("An image with each request"),
        key=_WITH_IMAGES,
        on_change=on_change,
        persist_state="session",
        help=_(
            "Images are sent in rotation, before the text. A little unique noise in one corner "
            "keeps engines from "
            "reusing cached results. TTFT then includes the engine's work on the image."
        ),
    )
    if not is_on:
        return
    st.file_uploader(_("Images"), accept_multiple_files=True, key=_IMAGE_UPLOAD, on_change=_take_images)
    for problem in st.session_state.get(_IMAGE_PROBLEMS, ()):
        show_error(problem)
    show_images(_kept_images(), width_px=_THUMBNAIL_PX)


def with_images(plan: BenchPlan) -> BenchPlan:
    """The plan with the images that are to go with its requests.

    Raises InputError if there are none yet, too many, or a lane that can't be sent them.
    """
    if not st.session_state.get(_WITH_IMAGES):
        return plan
    if not _kept_images():
        raise InputError(
            N_("No image is selected."), hint=N_("Upload at least one image, or turn images off.")
        )
    plan = replace(plan, workload=replace(plan.workload, images=_kept_images()))
    check_sendable(plan)
    return plan


def start_with_images(images: tuple[StoredImage, ...]) -> None:
    """Have the form hold those of the images that are still there; without any the switch is off."""
    there = tuple(image for image in images if resources.image_store().thumbnail(image, _THUMBNAIL_PX))
    st.session_state[_WITH_IMAGES], st.session_state[_IMAGES] = bool(there), there


def _kept_images() -> tuple[StoredImage, ...]:
    images: tuple[StoredImage, ...] = st.session_state.get(_IMAGES, ())
    return images


def _take_images() -> None:
    """All that is uploaded; what can't be used becomes a problem, and the others stay."""
    images, problems = [], []
    for file in st.session_state[_IMAGE_UPLOAD]:
        try:
            images.append(resources.image_store().put(sanitise(file.getvalue(), name=file.name)))
        except LMDynoError as error:
            problems.append(ErrorInfo.of(error))
    st.session_state[_IMAGES], st.session_state[_IMAGE_PROBLEMS] = tuple(images), tuple(problems)


def show_prompt_file() -> None:
    """The upload, and the file that is kept or what is wrong with it."""
    st.file_uploader(
        _("Prompt file"),
        type=list(PROMPT_ENDINGS),
        key=_PROMPT_FILE_UPLOAD,
        on_change=_take_prompt_file,
        help=_(
            "Text: one prompt per line. JSONL: one text or one object with `prompt`, `text`, or "
            "`messages` per line. JSON: a list in ShareGPT format. CSV: a column named `prompt`. For larger "
            "files, use `lmdyno bench --prompts FILE`."
        ),
    )
    if error := st.session_state.get(_PROMPT_FILE_ERROR):
        show_error(error)
    elif file := prompt_file():
        st.caption(f":material/description: {escape(Path(file.path or '').name)}")


def prompt_file() -> Workload | None:
    """A workload that names the file; None without one."""
    file: Workload | None = st.session_state.get(_PROMPT_FILE)
    return file


def start_with_prompt_file(workload: Workload) -> None:
    """Have the form hold the file of this workload, if it has one that is still there."""
    if workload.path and Path(workload.path).is_file():
        st.session_state[_PROMPT_FILE] = workload


def _take_prompt_file() -> None:
    uploaded = st.session_state[_PROMPT_FILE_UPLOAD]
    st.session_state.pop(_PROMPT_FILE_ERROR, None)
    if uploaded is None:  # taken out again
        st.session_state.pop(_PROMPT_FILE, None)
        return
    try:
        st.session_state[_PROMPT_FILE] = keep_prompt_file(
            resources.settings(), uploaded.name, uploaded.getvalue()
        )
    except LMDynoError as error:
        st.session_state[_PROMPT_FILE_ERROR] = error
        st.session_state.pop(_PROMPT_FILE, None)


def read() -> BenchPlan:
    """The plan that the fields make; raises InputError."""
    values = {field.name: value_of(field.name) for field in fields_of_class(PlanFields)}
    return with_images(plan_of(PlanFields(**values), _picked_lanes(), prompt_file()))


def prepare(lanes: tuple[LaneSpec, ...]) -> None:
    """Start values of a new session, which a reload begins too: the plan that was started last.

    Before the first the quick look at the lanes that start with the dashboard.
    """
    names = [lane.name for lane in lanes]
    state = st.session_state
    if LANES not in state and not _repeat_last(names):
        dashboard = resources.resources()
        started = resources.autostarted(dashboard.settings, lanes, gpu=dashboard.gpu) or lanes[:1]
        state[LANES] = [lane.name for lane in started]
        state[preset_key()] = Preset.QUICK_LOOK
        _fill(fields_of(_plan_of(Preset.QUICK_LOOK, _picked_lanes())))
    # The lanes file may have changed since the session began.
    state[LANES] = [name for name in names if name in state[LANES]]
    if state[LANES] and state.get(BASELINE) not in state[LANES]:
        state[BASELINE] = state[LANES][0]


def start_with(names: Sequence[str]) -> None:
    """Fill the form for a quick look at these lanes, the first one as the baseline, before it is drawn."""
    state = st.session_state
    state[LANES], state[BASELINE] = list(names), names[0]
    state[preset_key()] = Preset.QUICK_LOOK
    apply_preset()


def take_preset(key: str) -> None:
    """Apply the preset chosen on the widget of that key, which may have been replaced meanwhile."""
    st.session_state[preset_key()] = st.session_state[key]
    apply_preset()


def apply_preset() -> None:
    """The preset's values into all fields; it may go by the number of lanes."""
    preset, lanes = st.session_state[preset_key()], _picked_lanes()
    if preset is not None and lanes:
        renew(_FIELDS)
        _fill(fields_of(_plan_of(preset, lanes)))


def changed() -> None:
    """A field is no longer the preset's."""
    if st.session_state[preset_key()] is not None:
        renew(_PRESET)
        st.session_state[preset_key()] = None
    if value_of("title") in tuple(Preset):
        st.session_state[_key("title")] = ""


def preset_key() -> str:
    """The key of the presets' widget."""
    return key_of(_PRESET, group=_PRESET)


def field(name: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - arguments of widgets
    """The arguments that all fields' widgets have in common."""
    return {"key": _key(name), "on_change": changed, "persist_state": "session", **more}


def value_of(name: str) -> Any:  # noqa: ANN401 - as the field's widget has it
    return st.session_state[_key(name)]


def known_speeds(lanes: Sequence[LaneSpec]) -> Mapping[str, Speed]:
    """Of the lanes that were measured before, by name; empty while the store can't be read."""
    runs = resources.bench_runs()
    try:
        speeds = {lane.name: speed_of(runs.first_requests(lane)) for lane in lanes}
    except StoreError:
        return {}  # whoever draws the history says what is wrong with the store
    return {name: speed for name, speed in speeds.items() if speed is not None}


def _repeat_last(names: Sequence[str]) -> bool:
    """The values of the plan that was started last into all fields; False if its lanes are not there."""
    plan, state = last_plan(resources.settings()), st.session_state
    if plan is None or not all(lane.name in names for lane in plan.lanes):
        return False
    state[LANES] = [lane.name for lane in plan.lanes]
    state[BASELINE], state[preset_key()] = plan.lanes[0].name, preset_of(plan)
    _fill(fields_of(plan))
    start_with_prompt_file(plan.workload)
    start_with_images(plan.workload.images)
    return True


def _plan_of(preset: Preset, lanes: Sequence[LaneSpec]) -> BenchPlan:
    return preset_plan(preset, lanes, known_speeds(lanes) if preset is Preset.QUICK_LOOK else None)


def _fill(fields: PlanFields) -> None:
    for field in fields_of_class(PlanFields):
        st.session_state[_key(field.name)] = getattr(fields, field.name)


def _key(name: str) -> str:
    """The key of a field's widget."""
    return key_of(f"bench_{name}", group=_FIELDS)


def _picked_lanes() -> list[LaneSpec]:
    """The chosen lanes, the baseline first."""
    baseline = st.session_state.get(BASELINE)
    chosen = [lane for lane in resources.lanes().lanes if lane.name in st.session_state[LANES]]
    return sorted(chosen, key=lambda lane: lane.name != baseline)


def key_of(name: str, *, group: str) -> str:
    """The key that a widget of the group has now."""
    turn = st.session_state.get(_TURN + group, 0)
    return f"{name}_{turn}" if turn else name


def renew(group: str) -> None:
    """Give the group's widgets new keys; their values have to be set under these."""
    st.session_state[_TURN + group] = st.session_state.get(_TURN + group, 0) + 1
