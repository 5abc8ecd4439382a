"""The form of a quality run: lanes with a reference, tasks, prompts and texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from core.access.guard import Action
from core.domain.fairness import LMDEPLOY_KINDS
from core.domain.specs import LaneSpec
from core.errors import LMDynoError
from core.i18n import _, ngettext
from core.models.vision import is_vision
from core.quality.asking import is_installed
from core.quality.job import start_quality
from core.quality.plan import (
    CSV_EXAMPLE,
    JSONL_EXAMPLE,
    KV_BITS,
    OWN_ANSWERS,
    PROMPTS,
    PYTHON_DOCS,
    SCENES,
    QualityPlan,
    ShippedSet,
    TextSource,
    kv_variants,
    read_set,
    scene_count,
    scenes,
    shipped,
    text_file,
)
from core.quality.tasks import TaskItem
from core.ui.shared import resources
from core.ui.shared.components import show_error
from core.ui.shared.visitor import offers

_SET_NAMES = {ShippedSet.ENGLISH: "English", ShippedSet.CHINESE: "中文"}
_LANES_AT_FIRST = 3
_TOKEN_CHOICES = (1024, 2048, 4096, 8192, 16384)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Values:
    """The values of the form's fields."""

    sets: Sequence[str]
    own_sets: Sequence[Any]
    prompts: int
    texts: Sequence[TextSource]
    own_texts: Sequence[Any]
    answer_tokens: int
    text_tokens: int
    logits: bool
    repeat_reference: bool
    external_tasks: str
    title: str


def start_with(names: Sequence[str]) -> None:
    """Choose these lanes, the first one as the reference, before the form is drawn."""
    st.session_state["quality_lanes"], st.session_state["quality_reference"] = list(names), names[0]


def show_form() -> None:
    """The whole form; starts the run when it is asked to."""
    if not offers(Action.START_JOB):
        return
    chosen = _show_lanes(resources.lanes().lanes)
    if chosen is None:
        return
    lanes, reference = chosen
    with_images = all(is_vision(lane) for lane in lanes)
    with st.form("quality_form", border=True):
        values = _show_fields(with_images=with_images)
        asked = st.form_submit_button(_("Compare"), type="primary", icon=":material/play_arrow:")
    if not asked:
        return
    try:
        start_quality(resources.settings(), _plan(lanes, reference, values))
    except LMDynoError as error:
        show_error(error)
        return
    st.rerun()


def _show_lanes(lanes: Sequence[LaneSpec]) -> tuple[tuple[LaneSpec, ...], str] | None:
    by_name = {lane.name: lane for lane in lanes if resources.unfit(lane) is None}
    if not by_name:
        st.info(_("No lane can run on this machine. Add one on the Engines page."), icon=":material/dns:")
        return None
    left, right = st.columns(2)
    names = left.multiselect(
        _("Lanes"),
        list(by_name),
        default=list(by_name)[:_LANES_AT_FIRST],
        key="quality_lanes",
        placeholder=_("Choose one or more"),
    )
    reference = right.selectbox(
        _("Reference"),
        names,
        key="quality_reference",
        help=_(
            "The lane that the others are compared with, preferably the one closest to the original weights."
        ),
    )
    chosen = [by_name[name] for name in names]
    fitting = [lane for lane in chosen if lane.kind in LMDEPLOY_KINDS and not lane.settings.quant_policy]
    if fitting:
        bits = st.pills(
            _("Also with a quantised KV cache"),
            KV_BITS,
            selection_mode="multi",
            format_func=lambda number: _("{bits} bits", bits=number),
            key="quality_kv",
            help=_("Adds each LMDeploy lane once more with this `quant_policy`."),
        )
        chosen += [variant for lane in fitting for variant in kv_variants(lane, bits)]
    if not names or reference is None:
        st.info(_("Choose the lanes to compare."), icon=":material/compare_arrows:")
        return None
    return tuple(chosen), reference


def _show_fields(*, with_images: bool) -> _Values:
    left, right = st.columns(2)
    with left:
        sets = st.pills(
            _("Tasks with known answers"),
            [*ShippedSet, SCENES] if with_images else list(ShippedSet),
            selection_mode="multi",
            default=[SCENES] if with_images else list(ShippedSet),
            format_func=_set_label,
            key="quality_sets",
        )
        own_sets = st.file_uploader(
            _("Custom tasks (CSV or JSONL)"),
            type=["csv", "jsonl"],
            accept_multiple_files=True,
            key="quality_own",
        )
        with st.popover(_("File formats"), icon=":material/help:", type="tertiary"):
            st.code(JSONL_EXAMPLE, language="json", wrap_lines=True)
            st.code(CSV_EXAMPLE, language="csv", wrap_lines=True)
    with right:
        prompts = st.slider(
            _("Prompts whose answers are compared token by token"),
            0,
            len(PROMPTS),
            len(PROMPTS),
            key="quality_prompts",
        )
        texts = st.multiselect(
            _("Texts whose likelihood is compared"),
            (OWN_ANSWERS, PYTHON_DOCS),
            default=(OWN_ANSWERS, PYTHON_DOCS),
            format_func=_text_label,
            key="quality_texts",
            placeholder=_("Choose one or more"),
        )
        own_texts = st.file_uploader(
            _("Custom texts (UTF-8)"), accept_multiple_files=True, key="quality_own_texts"
        )
    with st.expander(_("More settings"), icon=":material/tune:"):
        return _Values(
            sets=sets,
            own_sets=own_sets,
            prompts=prompts,
            texts=texts,
            own_texts=own_texts,
            answer_tokens=st.slider(
                _("Maximum answer length in tokens"),
                8,
                512,
                48,
                key="quality_answer_tokens",
            ),
            text_tokens=st.select_slider(
                _("Maximum number of tokens scored per text"), _TOKEN_CHOICES, 4096, key="quality_tokens"
            ),
            logits=st.toggle(
                _("Compare logits too"),
                value=True,
                help=_("Adds top-1 agreement and KL divergence. Loads each LMDeploy engine a second time."),
                key="quality_logits",
            ),
            repeat_reference=st.toggle(
                _("Ask the reference lane twice"),
                value=True,
                help=_("The difference between its two answers is the numerical noise."),
                key="quality_twice",
            ),
            external_tasks=_show_external_tasks(),
            title=st.text_input(
                _("Title"),
                placeholder=_("Default: from the lane names"),
                key="quality_title",
            ),
        )


def _show_external_tasks() -> str:
    """Names of lm-evaluation-harness's tasks; the field is there where that program is."""
    if not is_installed():
        return ""
    return st.text_input(
        _("Tasks of lm-evaluation-harness"),
        placeholder="gsm8k, ifeval",
        help=_("Separated by commas. Only tasks whose answers are generated work over a chat endpoint."),
        key="quality_external",
    )


def _plan(lanes: tuple[LaneSpec, ...], reference: str, values: _Values) -> QualityPlan:
    """The plan of the form's values; raises InputError for what can't be compared."""
    items: list[TaskItem] = []
    for name in values.sets:
        items += scenes(resources.image_store()) if name == SCENES else shipped(ShippedSet(name))
    for file in values.own_sets:
        items += read_set(file.name, file.getvalue())
    return QualityPlan(
        lanes=lanes,
        reference=reference,
        prompts=PROMPTS[: values.prompts],
        tasks=tuple(items),
        task_sets=(*(str(name) for name in values.sets), *(file.name for file in values.own_sets)),
        texts=(*values.texts, *(text_file(file.name, file.getvalue()) for file in values.own_texts)),
        answer_tokens=values.answer_tokens,
        text_tokens=values.text_tokens,
        window_tokens=min(512, values.text_tokens),
        logits=values.logits,
        repeat_reference=values.repeat_reference,
        external_tasks=tuple(name for part in values.external_tasks.split(",") if (name := part.strip())),
        title=values.title.strip(),
    )


def _set_label(name: str) -> str:
    if name == SCENES:
        n, title = scene_count(), _("Drawn scenes")
    else:
        n, title = len(shipped(ShippedSet(name))), _SET_NAMES[ShippedSet(name)]
    return ngettext("{name}: {n} task", "{name}: {n} tasks", n, name=title)


def _text_label(text: TextSource) -> str:
    return _("The reference lane's own answers") if text == OWN_ANSWERS else _("Python's documentation")
