"""The memory page's predictions: what TurboMind engines would take of a GPU, before they are started.

The KV explorer predicts one engine; the order of several engines tells that each ratio applies to the memory
that earlier engines left free. The model is a lane's, a common one, a folder, or a pasted config.json.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

from core import units
from core.charts.colors import LANE_COLORS
from core.charts.memory import Bar, order_chart, parts_chart, sequences_map
from core.errors import InputError, LMDynoError
from core.i18n import N_, _
from core.memory.model_sizes import COMMON_GPUS, COMMON_MODELS, checkpoint_sizes, facts_to_predict
from core.memory.prediction import (
    KV_BITS,
    MemoryPrediction,
    MemorySettings,
    ModelSizes,
    kv_bytes_per_token,
    largest_ratio,
    predict,
    predict_in_order,
)
from core.models.checkpoint import CheckpointFacts, facts_of_config
from core.models.model_config import ModelConfig
from core.ui.shared import resources
from core.ui.shared.components import escape, show_chart, show_error

FORMS = (str(N_("16-bit")), "AWQ")
_RATIOS = tuple(round(0.05 * step, 2) for step in range(1, 20))
_CONTEXTS = tuple(1024 * 2**power for power in range(8))
_SOURCE = N_(
    "The prediction follows TurboMind's own arithmetic in "
    "[LMDeploy's sources](https://github.com/InternLM/lmdeploy/tree/main/src/turbomind): `turbomind.cc` "
    "applies the ratio to the memory that is free after the weights are loaded, and `memory/page.h`, "
    "`slab.h`, "
    "and `object.cc` divide it. It applies to dense models with MHA, GQA, or MQA. It doesn't apply to MLA, "
    "sliding windows, linear attention, LMDeploy's PyTorch engine, or transformers. CUDA context and buffers "
    "are estimates."
)

PASTED = N_("Pasted config.json")
_DEFAULT_MODEL = "InternLM2.5-7B"
_MOST_CHARACTERS = 200_000

_MODEL, _FORM, _RATIO, _BITS = "model", "weights", "ratio", "bits"
_EXAMPLE_ORDER: list[dict[str, Any]] = [
    {_MODEL: "InternLM2-1.8B", _FORM: form, _RATIO: 0.4, _BITS: 16} for form in FORMS
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The choice made with the explorer's controls."""

    model: str
    awq: bool
    settings: MemorySettings
    free_bytes: int
    gpu: str


def show_explorer() -> None:
    choice = _show_controls()
    try:
        plain, quantised = (sizes_of_choice(choice.model, awq=awq) for awq in (False, True))
        sizes = quantised if choice.awq else plain
        prediction = predict(sizes, choice.settings, choice.free_bytes)
    except LMDynoError as error:
        show_error(error)
        return
    _show_cards(prediction, sizes, choice)
    _show_awq(plain, quantised, choice)
    _show_charts(prediction, sizes, choice)
    st.caption(_(_SOURCE))


@dataclass(frozen=True, slots=True)
class GpuChoice:
    """A GPU to predict for."""

    title: str
    free_bytes: int


def gpu_choices() -> dict[str, GpuChoice]:
    """GPUs to predict for, by ids: those here as they are now, then common ones, empty."""
    latest = resources.sampler().sample()
    here = {
        f"gpu{gpu.index}": GpuChoice(
            _("GPU {index} (this machine) · {name}", index=gpu.index, name=gpu.name), gpu.free_bytes
        )
        for gpu in latest.gpus
        if gpu.free_bytes is not None
    }
    return here | {gpu.name: GpuChoice(gpu.name, gpu.free_bytes) for gpu in COMMON_GPUS}


def _show_controls() -> Choice:
    gpus = gpu_choices()
    with st.grid(4, min_column_width=200):
        model = show_model_choice()
        form = st.segmented_control(
            _("Weights"),
            FORMS,
            default=FORMS[0],
            format_func=_,
            required=True,
            key="explorer_form",
            persist_state="session",
        )
        gpu = st.selectbox(
            "GPU",
            list(gpus),
            index=_default_gpu(gpus),
            format_func=lambda gpu: gpus[gpu].title,
            key="explorer_gpu",
            persist_state="session",
        )
        settings = _show_settings()
    show_paste()
    return Choice(
        model=model,
        awq=form == FORMS[1],
        settings=settings,
        free_bytes=gpus[gpu].free_bytes,
        gpu=gpus[gpu].title,
    )


def _show_settings() -> MemorySettings:
    kv_bits = st.segmented_control(
        _("KV cache bits"), KV_BITS, default=16, required=True, key="explorer_bits", persist_state="session"
    )
    ratio = st.slider(
        _("KV cache ratio"),
        0.05,
        0.95,
        0.8,
        0.05,
        key="explorer_ratio",
        persist_state="session",
        help=_(
            "`cache_max_entry_count`: the share of the memory that is free **after the weights are loaded**. "
            "LMDeploy's default is 0.8."
        ),
    )
    context = st.select_slider(
        _("Tokens per sequence"),
        _CONTEXTS,
        4096,
        format_func="{:,}".format,
        key="explorer_context",
        persist_state="session",
    )
    batch = st.number_input(
        _("Concurrent requests"),
        1,
        1024,
        64,
        key="explorer_batch",
        persist_state="session",
        help="max_batch_size",
    )
    tp = st.segmented_control(
        _("GPUs (tensor parallel)"),
        (1, 2, 4, 8),
        default=1,
        required=True,
        key="explorer_tp",
        persist_state="session",
    )
    return MemorySettings(
        cache_max_entry_count=ratio, kv_bits=kv_bits, max_batch_size=batch, session_len=context, tp=tp
    )


def _default_gpu(gpus: Mapping[str, GpuChoice]) -> int:
    return 0 if len(gpus) > len(COMMON_GPUS) else list(gpus).index(COMMON_GPUS[3].name)


def _show_cards(prediction: MemoryPrediction, sizes: ModelSizes, choice: Choice) -> None:
    parts = {part.name: part.size_bytes for part in prediction.parts}
    settings = choice.settings
    per_token = kv_bytes_per_token(sizes.kv, kv_bits=settings.kv_bits, tp=settings.tp)
    headroom = prediction.headroom_bytes
    labels = _labels(several=settings.tp > 1, fits=prediction.fits)
    with st.container(horizontal=True, gap="small"):
        st.metric(
            labels[0],
            units.gib(parts["weights"]),
            help=_("Counted from config.json, without biases and small parts.") if sizes.counted else None,
            width="content",
        )
        st.metric(labels[1], units.gib(parts["KV cache"]), width="content")
        st.metric(
            _("Tokens that fit"),
            units.count(prediction.pool.tokens),
            help=_(
                "In all sequences together. Each token takes {n} bytes per GPU.", n=units.count(per_token)
            ),
            width="content",
        )
        st.metric(
            _("Sequences of {n} tokens", n=units.count(settings.session_len)),
            units.count(prediction.sequences),
            width="content",
        )
        st.metric(labels[2], units.gib(prediction.total_bytes), width="content")
        st.metric(labels[3], units.gib(abs(headroom)), width="content")
    if sizes.counted:
        st.caption(
            ":material/info: "
            + _("The weights are counted from config.json, because there are no weight files here.")
        )
    if not prediction.fits:
        st.error(
            _(
                "Out of memory: {size} short on {gpu}. {advice}",
                size=units.gib(-headroom),
                gpu=escape(choice.gpu),
                advice=_advice(sizes, choice),
            ),
            icon=":material/error:",
        )
    elif not prediction.holds_a_session:
        st.warning(
            _(
                "A sequence can't grow to {length} tokens, because only {n} fit.",
                length=units.count(settings.session_len),
                n=units.count(prediction.pool.tokens),
            ),
            icon=":material/warning:",
        )


def _labels(*, several: bool, fits: bool) -> tuple[str, str, str, str]:
    """Of weights, KV cache, total, and headroom; with tensor parallelism each GPU holds as much."""
    if several:
        headroom = _("Headroom per GPU") if fits else f":red[{_('Missing per GPU')}]"
        return _("Weights per GPU"), _("KV cache per GPU"), _("Total per GPU"), headroom
    headroom = _("Headroom") if fits else f":red[{_('Missing')}]"
    return _("Weights"), _("KV cache"), _("Total"), headroom


def _advice(sizes: ModelSizes, choice: Choice) -> str:
    ratio = largest_ratio(sizes, choice.settings, choice.free_bytes)
    if ratio is None:
        return _(
            "Changing the KV cache ratio won't help. Choose AWQ, more GPUs, fewer concurrent requests, or a "
            "larger GPU."
        )
    return _("The largest KV cache ratio that fits is {ratio}.", ratio=f"{ratio:.2f}")


def _show_awq(plain: ModelSizes, quantised: ModelSizes, choice: Choice) -> None:
    """An explanation why the total hardly changes with AWQ: the freed memory becomes KV cache."""
    freed = (plain.weight_bytes - quantised.weight_bytes) // choice.settings.tp
    if freed <= 0:
        st.caption(_("This checkpoint is already quantised, so there are no 16-bit weights to compare with."))
        return
    before, after = (predict(sizes, choice.settings, choice.free_bytes) for sizes in (plain, quantised))
    size = units.gib(freed)
    if not after.fits:
        text = _("AWQ frees **{size}** of weights per GPU, which isn't enough to fit here.", size=size)
    elif not before.fits:
        text = _(
            "AWQ frees **{size}** of weights per GPU. The engine fits only with AWQ, with room for **{n} "
            "tokens** of KV cache.",
            size=size,
            n=units.count(after.pool.tokens),
        )
    else:
        text = _(
            "AWQ frees **{size}** of weights per GPU, which becomes **{n} more tokens** of KV cache at the "
            "same ratio. The total hardly shrinks, because the KV cache takes its share of the memory that "
            "is left.",
            size=size,
            n=units.count(after.pool.tokens - before.pool.tokens),
        )
    st.info(text, icon=":material/compress:")


def _show_charts(prediction: MemoryPrediction, sizes: ModelSizes, choice: Choice) -> None:
    bar = Bar(name=choice.model, parts=[(part.name, part.size_bytes) for part in prediction.parts])
    show_chart(
        parts_chart([bar], limit_bytes=choice.free_bytes, limit_name=_("out of memory")),
        key="explorer_bars",
        alt=_("Predicted memory by part, compared with the GPU's free memory"),
    )
    st.markdown(_("**Concurrent sequences** by KV cache ratio and sequence length"))
    counts = [[_sequences(sizes, choice, ratio, length) for ratio in _RATIOS] for length in _CONTEXTS]
    show_chart(
        sequences_map(
            _RATIOS,
            _CONTEXTS,
            counts,
            out_of_memory_ratio=largest_ratio(sizes, choice.settings, choice.free_bytes),
            chosen=(choice.settings.cache_max_entry_count, choice.settings.session_len),
        ),
        key="explorer_map",
        alt=_("Sequences that fit for each KV cache ratio and sequence length, with the out-of-memory line"),
    )


def _sequences(sizes: ModelSizes, choice: Choice, ratio: float, length: int) -> int:
    settings = replace(choice.settings, cache_max_entry_count=ratio, session_len=length)
    return predict(sizes, settings, choice.free_bytes).sequences


def model_names() -> list[str]:
    """The models of the lanes, then common ones by their published dimensions."""
    return [model.name for model in resources.lanes().models] + [model.name for model in COMMON_MODELS]


def show_model_choice() -> str:
    """The chosen model's name, or the folder or hub id that was entered."""
    names = model_names()
    pasted = bool(_pasted_config())
    chosen = st.selectbox(
        _("Model"),
        names,
        # One that certainly can be predicted: a lane's may not be downloaded yet.
        index=names.index(_DEFAULT_MODEL),
        key="explorer_model",
        persist_state="session",
        accept_new_options=True,
        disabled=pasted,
        help=_("Choose a model, or enter a folder or the hub ID of a downloaded model."),
    )
    return _(PASTED) if pasted else chosen or _DEFAULT_MODEL


def show_paste() -> None:
    """A field for a config.json, which takes the place of the chosen model."""
    with st.popover(_("Paste a config.json"), icon=":material/content_paste:"):
        st.text_area(
            "config.json",
            key="explorer_config",
            persist_state="session",
            height=240,
            max_chars=_MOST_CHARACTERS,
            placeholder='{"architectures": ["LlamaForCausalLM"], …}',
            help=_("Empty the field to choose a model again."),
        )


def sizes_of_choice(name: str, *, awq: bool) -> ModelSizes:
    """Of what `show_model_choice` gave; raises InputError, also for a config that is no JSON."""
    return checkpoint_sizes(_pasted_facts(), awq=awq) if _pasted_config() else sizes_of(name, awq=awq)


def sizes_of(name: str, *, awq: bool) -> ModelSizes:
    """Raises InputError for a checkpoint that is not here or whose KV cache can't be predicted."""
    return checkpoint_sizes(_facts_of(name), awq=awq)


def _facts_of(name: str) -> CheckpointFacts:
    for model in resources.lanes().models:
        if model.name == name:
            return facts_to_predict(model.checkpoint)
    for common in COMMON_MODELS:
        if common.name == name:
            return common.facts
    return facts_to_predict(name)


def _pasted_config() -> str:
    return str(st.session_state.get("explorer_config") or "").strip()


def _pasted_facts() -> CheckpointFacts:
    try:
        values = json.loads(_pasted_config())
    except (ValueError, RecursionError) as exc:
        raise InputError(
            N_("The pasted config.json is not JSON: {reason}", reason=exc),
            hint=N_("Paste the whole file, with its braces."),
            code="model-unreadable",
        ) from exc
    if not isinstance(values, dict):
        raise InputError(
            N_("The pasted config.json is not an object."),
            hint=N_("Paste the whole file, with its braces."),
            code="model-unreadable",
        )
    return facts_of_config(ModelConfig(values, _(PASTED)))


def show_order() -> None:
    st.markdown(
        _(
            "The ratio applies to the memory that is free **when the engine loads**: 0.4 gives the second "
            "engine "
            "less than the first, and reserves nothing for either."
        )
    )
    gpus = gpu_choices()
    gpu = st.selectbox("GPU", list(gpus), format_func=lambda gpu: gpus[gpu].title, key="order_gpu")
    rows = _show_order_rows()
    if not rows:
        st.caption(_("Add a row for each engine, in start order."))
        return
    free_bytes = gpus[gpu].free_bytes
    try:
        predictions = predict_in_order([_engine_of(row) for row in rows], free_bytes)
    except LMDynoError as error:
        show_error(error)
        return
    _show_order_result(rows, predictions, free_bytes)


def _show_order_rows() -> list[Mapping[str, Any]]:
    edited = st.data_editor(
        _EXAMPLE_ORDER,
        key="order_engines",
        num_rows="dynamic",
        hide_index=True,
        column_config={
            _MODEL: st.column_config.SelectboxColumn(
                _("Model"), options=model_names(), required=True, width="medium"
            ),
            _FORM: st.column_config.SelectboxColumn(
                _("Weights"),
                options=FORMS,
                required=True,
                default=FORMS[0],
                format_func=lambda form: _(str(form)),
            ),
            _RATIO: st.column_config.NumberColumn(
                _("KV cache ratio"), min_value=0.01, max_value=0.99, step=0.01, required=True, default=0.4
            ),
            _BITS: st.column_config.SelectboxColumn(
                _("KV cache bits"), options=KV_BITS, required=True, default=16
            ),
        },
    )
    return [row for row in edited if all(cell is not None for cell in row.values())]


def _engine_of(row: Mapping[str, Any]) -> tuple[ModelSizes, MemorySettings]:
    # What the browser sends is not bound to the offered choices.
    if row[_MODEL] not in model_names():
        raise InputError(
            N_('There is no model "{name}".', name=row[_MODEL]), hint=N_("Choose a model from the list.")
        )
    settings = MemorySettings(cache_max_entry_count=float(row[_RATIO]), kv_bits=int(row[_BITS]))
    return sizes_of(row[_MODEL], awq=row[_FORM] == FORMS[1]), settings


def _show_order_result(
    rows: Sequence[Mapping[str, Any]], predictions: Sequence[MemoryPrediction], free_bytes: int
) -> None:
    names = [f"{place}. {row[_MODEL]}" for place, row in enumerate(rows, 1)]
    bars = [
        Bar(name=name, parts=[(part.name, part.size_bytes) for part in prediction.parts])
        for name, prediction in zip(names, predictions, strict=True)
    ]
    colors = {name: LANE_COLORS[place % len(LANE_COLORS)] for place, name in enumerate(names)}
    show_chart(
        order_chart(bars, limit_bytes=free_bytes, limit_name=_("out of memory"), colors=colors),
        key="order_chart",
        alt=_("Memory of the engines in start order, compared with the GPU's free memory; values below"),
    )
    table = [
        f"| {name} | {units.gib(p.free_before_bytes)} | {units.gib(p.total_bytes)} "
        f"| {units.gib(p.pool.reserved_bytes)} | {units.count(p.pool.tokens)} | {_headroom(p)} |"
        for name, p in zip(names, predictions, strict=True)
    ]
    head = (_("Engine"), _("Free before"), _("Total"), _("KV cache"), _("Tokens"), _("Headroom"))
    st.markdown("\n".join([f"| {' | '.join(head)} |", "|:--|--:|--:|--:|--:|:--|", *table]))


def _headroom(prediction: MemoryPrediction) -> str:
    if prediction.fits:
        return units.gib(prediction.headroom_bytes)
    return f":red[{_('{size} short', size=units.gib(-prediction.headroom_bytes))}]"
