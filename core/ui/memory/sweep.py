"""The memory page's sweep: a background job that compares predicted with measured memory, and its points."""

import streamlit as st

from core import units
from core.access.guard import Action
from core.bench.memory_sweep import (
    DEFAULT_RATIOS,
    JOB_KIND,
    SweepPlan,
    SweepRun,
    grid,
    load,
    start_sweep,
    sweep_id,
)
from core.charts.memory import SweepBar, sweep_chart
from core.codec import encode_plain
from core.errors import LMDynoError
from core.i18n import _
from core.jobs.registry import Jobs, JobStatus
from core.memory.prediction import KV_BITS
from core.ui.memory.explorer import FORMS
from core.ui.shared import resources
from core.ui.shared.components import escape, show_chart, show_error
from core.ui.shared.jobs import choose_node, gpus_of, is_usable, not_deleted, show_job
from core.ui.shared.visitor import offers, show_export

_REFRESH_S = 1.0
_SHOWN = 5


def show_sweep() -> None:
    st.markdown(
        _(
            "Starts TurboMind with each KV cache setting, sends one request, and compares the prediction "
            "with NVML "
            "and the engine's log. Takes about 30 s per point. Keeps running if you leave this page."
        )
    )
    if offers(Action.START_JOB):
        node = choose_node("sweep_node")
        plan = _show_form(node)
        if plan and is_usable(node):
            try:
                start_sweep(resources.settings(), plan, node=node)
            except LMDynoError as error:
                show_error(error)
    show_runs()


def _show_form(node: str | None) -> SweepPlan | None:
    readings = resources.sampler().sample().gpus if node is None else gpus_of(node)
    gpus = {gpu.index: f"GPU {gpu.index} · {gpu.name}" for gpu in readings}
    models = {model.name: model for model in resources.lanes().models}
    if not gpus or not models:
        if gpus:
            text = _("A sweep needs a model on this machine, but all lanes are endpoints.")
        elif node is None:
            text = _("A sweep needs an NVIDIA GPU, but this machine has none.")
        else:
            text = _("A sweep needs an NVIDIA GPU, but node {node} has none.", node=escape(node))
        st.info(text, icon=":material/memory:")
        return None
    with st.form("sweep", border=True):
        left, right = st.columns(2)
        name = left.selectbox(
            _("Model"),
            list(models),
            key="sweep_model",
        )
        gpu = right.selectbox(
            "GPU",
            list(gpus),
            format_func=gpus.__getitem__,
            key="sweep_gpu" if node is None else f"sweep_gpu_{node}",
        )
        ratios = st.pills(
            _("KV cache ratios"),
            DEFAULT_RATIOS,
            selection_mode="multi",
            default=DEFAULT_RATIOS,
            key="sweep_ratios",
        )
        bits = st.pills(
            _("KV cache bits"),
            KV_BITS,
            selection_mode="multi",
            default=[16],
            key="sweep_bits",
        )
        forms = st.pills(
            _("Weights"),
            FORMS,
            selection_mode="multi",
            default=[FORMS[0]],
            format_func=_,
            key="sweep_weights",
        )
        if not st.form_submit_button(_("Start sweep"), type="primary", icon=":material/play_arrow:"):
            return None
    try:
        return SweepPlan(
            model=models[name], points=grid(ratios, bits, [form == FORMS[1] for form in forms]), gpu=gpu
        )
    except LMDynoError as error:
        show_error(error)
        return None


@st.fragment(run_every=_REFRESH_S)
def show_runs() -> None:
    """The newest sweeps with what they measured so far; refreshes itself."""
    for status in not_deleted(Jobs(resources.settings()).statuses(JOB_KIND)[:_SHOWN]):
        with st.container(border=True):
            show_job(status, show_detail=_show_measured)


def _show_measured(status: JobStatus) -> None:
    try:
        run = load(resources.settings(), sweep_id(status.spec))
    except LMDynoError as error:
        show_error(error)
        return
    if run and run.points:
        show_points(status.id, run)


def show_points(key: str, run: SweepRun, *, export: bool = False) -> None:
    """The chart and the values of the points measured so far."""
    st.caption(f"{escape(run.gpu_name)} · {escape(run.engine_version or units.UNKNOWN)}")
    bars = [
        SweepBar(
            name=result.point.label,
            predicted_bytes=result.predicted_bytes,
            measured_bytes=result.measured_bytes,
        )
        for result in run.points
        if result.predicted_bytes is not None
    ]
    show_chart(
        sweep_chart(bars, _("GPU memory of the engine, GiB")),
        key=f"sweep_{key}",
        alt=_("Predicted and measured memory of each point; values below"),
    )
    error = _("Error")
    names = (
        _("Point"),
        _("KV cache (log)"),
        error,
        _("Tokens"),
        error,
        _("Memory (NVML)"),
        error,
    )
    head = [f"| {' | '.join(names)} |", "|:--|--:|--:|--:|--:|--:|--:|"]
    rows = [
        f"| {escape(r.point.label)} | {units.gib(r.log_kv_bytes)} | {units.percent(r.kv_error_ratio)} "
        f"| {units.count(r.log_kv_tokens)} | {units.percent(r.tokens_error_ratio)} "
        f"| {units.gib(r.measured_bytes)} | {units.percent(r.total_error_ratio)} |"
        for r in run.points
    ]
    with st.expander(_("Values"), icon=":material/table:"):
        st.markdown("\n".join(head + rows))
        st.caption(_("Error: predicted divided by measured, minus 1."))
    if export:
        show_export(
            _("Export JSON"),
            f"sweep {run.plan.id}",
            lambda: encode_plain(run),
            file_name=f"sweep-{run.plan.id}.json",
            key=f"export_{key}",
        )
    for result in run.points:
        if result.error:
            text = _("{name}: {value}", name=result.point.label, value=result.error.message)
            st.caption(f":orange[:material/error:] {escape(text)}")
