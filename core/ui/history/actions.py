"""Actions of the history's buttons. All are widget callbacks: each runs exactly once a click."""

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta

import streamlit as st

from core.access.guard import acting_as, is_read_only
from core.access.identity import SYSTEM
from core.domain.history import HistoryEntry, RunKind
from core.domain.turns import ErrorInfo, utc_now
from core.errors import AccessDenied, LMDynoError, StoreError
from core.i18n import _, ngettext
from core.image_quiz.job import images_of_jobs
from core.jobs.registry import Jobs
from core.reports.imports import import_run
from core.ui.history import session as history_state
from core.ui.shared import resources

log = logging.getLogger(__name__)

BIN_DAYS = 30
"""Entries deleted longer ago are removed for good when somebody opens the history."""
UPLOAD = "history_upload"


def delete(entries: Sequence[HistoryEntry]) -> None:
    """Into the bin; can be undone."""
    try:
        for kind in RunKind:
            resources.history().delete(kind, _ids(entries, kind))
    except (AccessDenied, StoreError) as error:
        history_state.state().problem = ErrorInfo.of(error)
        return
    history_state.show_list()
    history_state.done(deleted=entries)


def restore(entries: Sequence[HistoryEntry]) -> None:
    try:
        for kind in RunKind:
            resources.history().restore(kind, _ids(entries, kind))
    except (AccessDenied, StoreError) as error:
        history_state.state().problem = ErrorInfo.of(error)
        return
    history_state.done(ngettext("{n} entry restored.", "{n} entries restored.", len(entries)))


def empty_bin() -> None:
    """Everything that was deleted goes for good."""
    try:
        removed = _purge(utc_now())
    except (AccessDenied, StoreError) as error:
        history_state.state().problem = ErrorInfo.of(error)
        return
    history_state.done(
        ngettext("{n} entry permanently deleted.", "{n} entries permanently deleted.", removed)
    )


@st.cache_data(ttl=timedelta(days=1), show_spinner=False)
def empty_old() -> int:
    """At most once a day: what has been in the bin for `BIN_DAYS` goes for good. Raises StoreError."""
    if is_read_only():
        return 0
    with acting_as(SYSTEM):  # whoever looks at the history first that day
        removed = _purge(utc_now() - timedelta(days=BIN_DAYS))
    if removed:
        log.info("old deleted entries removed count=%d", removed)
    return removed


def tag(entries: Sequence[HistoryEntry], key: str) -> None:
    """Write the tag that stands in the widget `key`; an empty one takes the entries' tags away."""
    text = (st.session_state[key] or "").strip()
    try:
        for kind in RunKind:
            resources.history().set_tag(kind, _ids(entries, kind), text)
    except (AccessDenied, StoreError) as error:
        history_state.state().problem = ErrorInfo.of(error)
        return
    if text:
        message = ngettext("{n} entry tagged.", "{n} entries tagged.", len(entries))
    else:
        message = ngettext("Tag of {n} entry removed.", "Tags of {n} entries removed.", len(entries))
    history_state.done(message)


def annotate(entry: HistoryEntry, note_key: str, tag_key: str) -> None:
    """Write the note and tag that stand in these widgets."""
    note, text = st.session_state[note_key] or "", st.session_state[tag_key] or ""
    try:
        resources.history().annotate(entry.kind, entry.id, note=note.strip(), tag=text.strip())
    except (AccessDenied, StoreError) as error:
        history_state.state().problem = ErrorInfo.of(error)
        return
    history_state.done(_("Saved."))


def sanitise() -> None:
    """Import the uploaded file and show its run; a problem is kept for the page to show."""
    upload = st.session_state[UPLOAD]
    if upload is None:
        return
    try:
        imported = import_run(upload, resources.bench_runs(), resources.quality_runs())
        run = imported.run
        if imported.is_new:
            resources.history().annotate(imported.kind, run.id, note=run.note, tag=run.tag)
    except LMDynoError as error:
        history_state.state().problem = ErrorInfo.of(error)
        return
    history_state.open_run(run.id, imported.kind)
    history_state.done(
        _("Imported.") if imported.is_new else _("This run already exists. Nothing was imported.")
    )


def _purge(deleted_before: datetime) -> int:
    """Entries go for good, and the files of images that were only theirs; returns how many entries."""
    purged = resources.history().purge(deleted_before)
    for job_id in purged.job_results:
        Jobs(resources.settings()).forget(job_id)
    if purged.images:
        unused = purged.images - images_of_jobs(resources.settings())
        removed = resources.image_store().remove(unused, put_before=deleted_before)
        log.info("images of removed entries removed count=%d", removed)
    return purged.entries


def _ids(entries: Sequence[HistoryEntry], kind: RunKind) -> list[str]:
    return [entry.id for entry in entries if entry.kind is kind]
