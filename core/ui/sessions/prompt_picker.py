"""The prompts of a session: a shipped set, an earlier one, or custom prompts; all can be edited."""

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from core.domain.conversation import StoredImage
from core.domain.sessions import PromptSet, SessionPrompt
from core.errors import InputError, LMDynoError
from core.i18n import N_, _, ngettext
from core.images.gallery import gallery
from core.images.sanitise import sanitise
from core.sessions.prompts import (
    SHIPPED,
    UPLOAD_TYPES,
    guessed_language,
    no_image,
    pasted_prompts,
    prompt_set,
    set_label,
    shipped_set,
    uploaded_prompts,
)
from core.ui.shared import resources
from core.ui.shared.components import show_error

_PASTED = "pasted"
_UPLOADED = "uploaded"
_COLUMNS = ("prompt", "category", "language", "image")


def show(*, with_images: bool) -> PromptSet | None:
    """The chosen set as edited; None, with the reason in view, while there is none."""
    saved = {f"{kept.name}@{kept.version}": kept for kept in resources.sessions().prompt_sets()}
    names = {
        **{key: _(name) for key, name in SHIPPED.items()},
        **{key: _(set_label(kept)) for key, kept in saved.items()},
        _PASTED: _("Pasted lines"),
        _UPLOADED: _("CSV, JSONL, or text file"),
    }
    default = "vision" if with_images else "english"
    chosen = st.selectbox(
        _("Prompts"),
        list(names),
        index=list(names).index(default),
        format_func=names.__getitem__,
        key=f"new_prompts_{default}",
        persist_state="session",
    )
    try:
        chosen_set = _chosen(chosen, saved)
        if chosen_set is None:
            return None
        return _edited(chosen_set, key=f"{chosen}_{chosen_set.version}")
    except LMDynoError as error:
        show_error(error)
        return None


def _chosen(chosen: str, saved: Mapping[str, PromptSet]) -> PromptSet | None:
    if chosen in SHIPPED:
        return shipped_set(chosen, _gallery_image)
    if chosen in saved:
        return saved[chosen]
    name = st.text_input(_("Set name"), value=_("My prompts"), max_chars=60, key=f"set_name_{chosen}")
    if chosen == _PASTED:
        text = st.text_area(_("One prompt per line"), height=160, key="set_lines", persist_state="session")
        prompts: Sequence[SessionPrompt] = pasted_prompts(text)
    else:
        files = st.file_uploader(
            _("Prompt list and images"),
            type=list(UPLOAD_TYPES),
            accept_multiple_files=True,
            key="set_files",
            help=_(
                "CSV: a head line with prompt and, if wanted, category, language and image. JSONL: objects "
                "with the same keys. Text: one prompt per line."
            ),
        )
        prompts = _uploaded({file.name: file.getvalue() for file in files}) if files else ()
    return prompt_set(name, prompts) if prompts else None


def _uploaded(files: Mapping[str, bytes]) -> Sequence[SessionPrompt]:
    def image_of(name: str) -> StoredImage:
        if name not in files:
            return no_image(name)
        return resources.image_store().put(sanitise(files[name], name=name))

    return uploaded_prompts(files, image_of)


def _gallery_image(name: str) -> StoredImage:
    shown = next((image for image in gallery() if image.name == name), None)
    if shown is None:
        return no_image(name)
    return resources.image_store().put(sanitise(shown.path.read_bytes(), name=shown.path.name))


def _edited(prompts: PromptSet, *, key: str) -> PromptSet:
    """The set after what was changed in the table; a new version if anything was."""
    images = {image.name: image for prompt in prompts.prompts for image in prompt.images}
    rows = [_row(prompt) for prompt in prompts.prompts]
    number = ngettext("{n} prompt", "{n} prompts", len(rows))
    with st.expander(
        _("{name}: {number}, version {version}", name=prompts.name, number=number, version=prompts.version),
        icon=":material/edit_note:",
    ):
        edited: list[dict[str, Any]] = st.data_editor(
            rows,
            num_rows="dynamic",
            key=f"prompts_{key}",
            column_order=_COLUMNS if images else _COLUMNS[:3],
            column_config={
                "prompt": st.column_config.TextColumn(_("Prompt"), width="large", required=True),
                "category": st.column_config.TextColumn(_("Category")),
                "language": st.column_config.TextColumn(_("Language"), help=_("Such as en or zh")),
                "image": st.column_config.TextColumn(_("Image"), disabled=True),
            },
        )
        changed = prompt_set(prompts.name, [_prompt(row, images) for row in edited if _text(row, "prompt")])
        if changed.version == prompts.version:
            return prompts
        st.caption(_("Edited: it becomes version {version}.", version=changed.version))
    return changed


def _row(prompt: SessionPrompt) -> dict[str, Any]:
    return {
        "prompt": prompt.text,
        "category": prompt.category,
        "language": prompt.language,
        "image": prompt.images[0].name if prompt.images else "",
    }


def _prompt(row: Mapping[str, Any], images: Mapping[str, StoredImage]) -> SessionPrompt:
    text, image = _text(row, "prompt"), _text(row, "image")
    if image and image not in images:
        raise InputError(N_('There is no image "{name}".', name=image), hint=N_("Choose the set again."))
    return SessionPrompt(
        text=text,
        category=_text(row, "category"),
        language=_text(row, "language") or guessed_language(text),
        images=(images[image],) if image else (),
    )


def _text(row: Mapping[str, Any], column: str) -> str:
    """A cell's text; new rows have None in cells that nobody wrote to."""
    value = row.get(column)
    return value.strip() if isinstance(value, str) else ""
