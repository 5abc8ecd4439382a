"""W4A16 quantisation: what it needs, what stands in its way, and how far it is."""

from dataclasses import dataclass, replace
from pathlib import Path

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from core import units
from core.cluster.jobs import quantize_on
from core.domain.specs import EngineKind, LaneSpec, ModelSpec, Weights
from core.errors import InputError, LMDynoError
from core.files import keep_upload
from core.i18n import N_, _
from core.jobs.registry import Jobs, JobState, JobStatus
from core.models import job as models_job
from core.models.awq.options import NAMED_SETS, NO_DATA, OWN_ANSWERS, PYTHON_DOCS, AwqOptions, Rounding
from core.ui.engines import status as engine_status
from core.ui.engines.status import REFRESH_S
from core.ui.shared import resources
from core.ui.shared.components import escape, show_error, show_warning
from core.ui.shared.jobs import choose_node, gpus_of, is_usable, show_job, show_job_log

_FILE = "file"
_SOURCES = {
    PYTHON_DOCS: N_("Python's language reference (comes with Python)"),
    OWN_ANSWERS: N_("The model's own answers to built-in prompts"),
    _FILE: N_("Custom text or JSONL file"),
    **{name: N_("{dataset} (downloaded from the hub)", dataset=name) for name in NAMED_SETS},
    NO_DATA: N_("No data: round to nearest"),
}
_DEVICES = {
    "cuda": N_("the GPU with the most free memory"),
    "cpu": N_("the CPU (slow with calibration)"),
}
_KNOWN_AS_DONE = "quantise_known_as_done"
_WARNED = "quantise_warned"


@dataclass(frozen=True, slots=True)
class Order:
    """A quantisation that somebody wants, and what speaks against it without keeping it from starting."""

    model: ModelSpec
    options: AwqOptions
    node: str | None = None
    """Where it is done; None for this machine."""
    warnings: tuple[LMDynoError, ...] = ()


def show_quantisation() -> None:
    st.markdown(
        _(
            "Quantises a checkpoint to W4A16 (4-bit weights, 16-bit activations) with LMDeploy's `auto_awq`. "
            "Keeps running if you leave this page."
        )
    )
    show_jobs()
    node = choose_node("quantise_node")
    model, options = _show_form(node)
    if model and options and is_usable(node):
        _check(Order(model, options, node))
    if order := st.session_state.get(_WARNED):
        _show_warnings(order)


def _check(order: Order) -> None:
    """Start it; with warnings only once somebody has seen them."""
    st.session_state.pop(_WARNED, None)
    if order.node is not None:
        _start(order)  # the node checks it
        return
    try:
        with st.spinner(_("Checking requirements")):
            findings = models_job.check_quantization(resources.settings(), order.model, order.options)
    except LMDynoError as error:
        show_error(error)
        return
    warnings = tuple(finding.problem for finding in findings if not finding.blocking)
    if warnings and len(warnings) == len(findings):
        st.session_state[_WARNED] = replace(order, warnings=warnings)
    else:
        _start(order)


def _start(order: Order) -> None:
    """Start it, or say what stands in its way."""
    try:
        with st.spinner(_("Starting")):
            if order.node is None:
                models_job.quantize(resources.settings(), order.model, order.options)
            else:
                quantize_on(resources.settings(), order.node, order.model, order.options)
    except LMDynoError as error:
        show_error(error)
        return
    st.rerun()


def _show_warnings(order: Order) -> None:
    """Warnings before the start, and the button to start all the same."""
    for problem in order.warnings:
        show_warning(problem)
    with st.container(horizontal=True):
        is_wanted = st.button(_("Quantise anyway"), type="primary", key="quantise_anyway")
        st.button(_("Cancel"), key="quantise_not", on_click=st.session_state.pop, args=(_WARNED, None))
    if is_wanted:
        del st.session_state[_WARNED]
        _start(order)


@st.fragment(run_every=REFRESH_S)
def show_jobs() -> None:
    """All quantisations, newest first; refreshes itself, and the lanes when one is done."""
    statuses = Jobs(resources.settings()).statuses(models_job.QUANTISING)
    done = {status.id for status in statuses if status.state is JobState.DONE}
    if not done <= st.session_state.setdefault(_KNOWN_AS_DONE, done):
        st.session_state[_KNOWN_AS_DONE] = done
        engine_status.read_lanes_again()
    for status in statuses[:5]:
        with st.container(border=True):
            show_job(status, show_detail=_show_result)
            show_job_log(status)


def _show_result(status: JobStatus) -> None:
    if status.state is not JobState.DONE:
        return
    folder = Path(str(status.spec.arguments["target"]))
    if "node" in status.spec.arguments and status.record.result:
        # The folder is the node's, and its lane belongs into lanes.toml.
        st.caption(_sizes(status, *(status.record.result[key] for key in ("source_bytes", "result_bytes"))))
        return
    try:
        made = models_job.read_provenance(folder)
    except LMDynoError as error:
        show_error(error)
        return
    if made is None:
        st.caption(_("The result has since been deleted."))
        return
    sizes = _sizes(status, made.source_bytes, made.result_bytes)
    st.caption(f"{sizes} · {escape(str(folder))}")
    if lane := _lane_of(folder):
        st.button(
            _("Add lane {name}", name=lane.name),
            icon=":material/add:",
            key=f"lane_of_{status.id}",
            on_click=engine_status.add,
            args=(lane,),
        )


def _sizes(status: JobStatus, source_bytes: int | None, result_bytes: int | None) -> str:
    return _(
        "{source} → {result} in {time}",
        source=units.gib(source_bytes),
        result=units.gib(result_bytes),
        time=units.duration(status.elapsed_s),
    )


def _lane_of(folder: Path) -> LaneSpec | None:
    """A lane over the quantised weights; None if they have one, or belong to no model that lanes can name."""
    registry = resources.lanes()
    model = next((model for model in registry.models if model.awq == str(folder)), None)
    taken = [lane.model for lane in registry.lanes if lane.weights is Weights.AWQ]
    if model is None or model in taken:
        return None
    name = f"{model.name[:28].lower()}-awq"
    return LaneSpec(name=name, kind=EngineKind.AWQ, model=model, weights=Weights.AWQ)


def _show_form(node: str | None) -> tuple[ModelSpec | None, AwqOptions | None]:
    models = {model.name: model for model in resources.lanes().models}
    if not models:
        st.info(_("All lanes are endpoints. There is no model to quantise."), icon=":material/cloud:")
        return None, None
    source = st.selectbox(
        _("Calibration text"),
        # An uploaded file is on this machine.
        [source for source in _SOURCES if node is None or source != _FILE],
        format_func=lambda source: _(_SOURCES[source]),
        key="quantise_source",
    )
    has_gpu = resources.resources().gpu if node is None else bool(gpus_of(node))
    with st.form("quantise", border=True):
        name = st.selectbox(
            _("Model"),
            list(models),
            key="quantise_model",
        )
        file = (
            st.file_uploader(
                _("Calibration file"),
                type=["txt", "jsonl"],
                key="quantise_file",
            )
            if source == _FILE
            else None
        )
        left, right = st.columns(2)
        samples = left.number_input(
            _("Samples"),
            1,
            4096,
            32,
            disabled=source == NO_DATA,
            key="quantise_samples",
        )
        seqlen = right.number_input(
            _("Tokens per sample"),
            16,
            131_072,
            1024,
            disabled=source == NO_DATA,
            key="quantise_seqlen",
        )
        device = st.selectbox(
            _("Run on"),
            _DEVICES,
            index=0 if has_gpu else 1,
            format_func=lambda device: _(_DEVICES[device]),
            key="quantise_device" if node is None else f"quantise_device_{node}",
        )
        search = st.toggle(
            _("Search scales"),
            help=_(
                "`--search-scale`: tries 20 scales per layer. Gives better results but takes many times "
                "longer."
            ),
            key="quantise_search",
        )
        compensates = st.toggle(
            _("Error-compensated rounding"),
            value=False,
            disabled=source == NO_DATA,
            help=_(
                "`--rounding compensated`: chooses the values so that each layer's output changes least. "
                "Loses less quality. For models with Llama's structure."
            ),
        )
        if not st.form_submit_button(_("Quantise"), type="primary", icon=":material/compress:"):
            return None, None
    try:
        options = AwqOptions(
            calibration=_kept(file) if source == _FILE else source,
            samples=samples,
            seqlen=seqlen,
            search_scale=search,
            rounding=Rounding.COMPENSATED if compensates and source != NO_DATA else Rounding.NEAREST,
            device=device,
        )
    except LMDynoError as error:
        show_error(error)
        return None, None
    return models[name], options


def _kept(file: UploadedFile | None) -> str:
    """The path of the uploaded text; a visitor can't name one, since the job reads whatever it is given."""
    if file is None:
        raise InputError(
            N_("No calibration file is uploaded."), hint=N_("Upload one, or choose another text.")
        )
    folder = resources.settings().home / "calibration"
    return str(keep_upload(folder, file.name, file.getvalue(), nameless="calibration.txt"))
