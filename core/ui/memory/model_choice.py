"""The model that the memory page predicts for: a lane's, a common one, a folder, or a pasted config.json."""

import json

import streamlit as st

from core.errors import InputError
from core.i18n import N_, _
from core.memory.model_sizes import COMMON_MODELS, checkpoint_sizes, facts_to_predict
from core.memory.prediction import ModelSizes
from core.models.checkpoint import CheckpointFacts, facts_of_config
from core.models.model_config import ModelConfig
from core.ui.shared import resources

PASTED = N_("Pasted config.json")
_DEFAULT = "InternLM2.5-7B"
_MOST_CHARACTERS = 200_000


def model_names() -> list[str]:
    """The models of the lanes, then common ones by their published dimensions."""
    return [model.name for model in resources.lanes().models] + [model.name for model in COMMON_MODELS]


def show_model_choice() -> str:
    """The chosen model's name, or the folder or hub id that was entered."""
    names = model_names()
    pasted = bool(_pasted())
    chosen = st.selectbox(
        _("Model"),
        names,
        # One that certainly can be predicted: a lane's may not be downloaded yet.
        index=names.index(_DEFAULT),
        key="explorer_model",
        persist_state="session",
        accept_new_options=True,
        disabled=pasted,
        help=_("Choose a model, or enter a folder or the hub ID of a downloaded model."),
    )
    return _(PASTED) if pasted else chosen or _DEFAULT


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
    return checkpoint_sizes(_pasted_facts(), awq=awq) if _pasted() else sizes_of(name, awq=awq)


def sizes_of(name: str, *, awq: bool) -> ModelSizes:
    """Raises InputError for a checkpoint that is not here or whose KV cache can't be predicted."""
    return checkpoint_sizes(_facts(name), awq=awq)


def _facts(name: str) -> CheckpointFacts:
    for model in resources.lanes().models:
        if model.name == name:
            return facts_to_predict(model.checkpoint)
    for common in COMMON_MODELS:
        if common.name == name:
            return common.facts
    return facts_to_predict(name)


def _pasted() -> str:
    return str(st.session_state.get("explorer_config") or "").strip()


def _pasted_facts() -> CheckpointFacts:
    try:
        values = json.loads(_pasted())
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
