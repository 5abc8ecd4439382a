"""Predict several engines on one GPU: each ratio applies to the memory that earlier engines left free."""

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from core import units
from core.charts.colors import LANE_COLORS
from core.charts.memory import Bar, order_chart
from core.errors import InputError, LMDynoError
from core.i18n import N_, _
from core.memory.kv_cache import KV_BITS
from core.memory.prediction import MemoryPrediction, MemorySettings, ModelSizes, predict_in_order
from core.ui.memory.explorer import FORMS, gpu_choices
from core.ui.memory.model_choice import model_names, sizes_of
from core.ui.shared.components import show_chart, show_error

_MODEL, _FORM, _RATIO, _BITS = "model", "weights", "ratio", "bits"
_EXAMPLE: list[dict[str, Any]] = [
    {_MODEL: "InternLM2-1.8B", _FORM: form, _RATIO: 0.4, _BITS: 16} for form in FORMS
]


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
    rows = _show_rows()
    if not rows:
        st.caption(_("Add a row for each engine, in start order."))
        return
    free_bytes = gpus[gpu].free_bytes
    try:
        predictions = predict_in_order([_engine(row) for row in rows], free_bytes)
    except LMDynoError as error:
        show_error(error)
        return
    _show_result(rows, predictions, free_bytes)


def _show_rows() -> list[Mapping[str, Any]]:
    edited = st.data_editor(
        _EXAMPLE,
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


def _engine(row: Mapping[str, Any]) -> tuple[ModelSizes, MemorySettings]:
    # What the browser sends is not bound to the offered choices.
    if row[_MODEL] not in model_names():
        raise InputError(
            N_('There is no model "{name}".', name=row[_MODEL]), hint=N_("Choose a model from the list.")
        )
    settings = MemorySettings(cache_max_entry_count=float(row[_RATIO]), kv_bits=int(row[_BITS]))
    return sizes_of(row[_MODEL], awq=row[_FORM] == FORMS[1]), settings


def _show_result(
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
        f"| {units.gib(p.pool.reserved_bytes)} | {units.count(p.pool.tokens)} | {_verdict(p)} |"
        for name, p in zip(names, predictions, strict=True)
    ]
    head = (_("Engine"), _("Free before"), _("Total"), _("KV cache"), _("Tokens"), _("Headroom"))
    st.markdown("\n".join([f"| {' | '.join(head)} |", "|:--|--:|--:|--:|--:|:--|", *table]))


def _verdict(prediction: MemoryPrediction) -> str:
    if prediction.fits:
        return units.gib(prediction.headroom_bytes)
    return f":red[{_('{size} short', size=units.gib(-prediction.headroom_bytes))}]"
