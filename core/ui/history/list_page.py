"""The list of all turns and runs: a page of it as a table, and what can be done with its rows.

The functions from `delete_entries` on are callbacks of buttons, of an entry's page too: each runs exactly
once a click.
"""

import logging
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from math import ceil
from typing import Any

import pyarrow as pa
import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core import units
from core.access.guard import Action, acting_as, is_read_only, may
from core.access.identity import SYSTEM
from core.bench.results.comparison import MAX_RUNS
from core.bench.results.result import summarise
from core.domain.runs import HistoryEntry, HistoryFilter, LaneSummary, RunKind, RunState, Summary
from core.domain.turns import ErrorInfo, utc_now
from core.errors import LMDynoError, StoreError
from core.i18n import N_, Text, _, ngettext
from core.jobs.registry import Jobs
from core.quality.image_quiz import images_of_jobs
from core.reports.run_json import import_run
from core.ui.history import session as history_state
from core.ui.history.session import PAGE, show_filters
from core.ui.shared import resources
from core.ui.shared.components import color_of, escape, show_error
from core.ui.shared.visitor import is_mine

PAGE_SIZE = 25
_OPEN = "history_open"
_TAGGED = "history_bulk_tag"
_FIGURES_HELP = N_(
    "One value per lane, in lane order. Turn: its single request. Benchmark: p50 at the lane's lightest "
    "load; "
    "for the rest, open the run."
)

_KIND_NAMES = {
    RunKind.CHAT: N_("Turn"),
    RunKind.BENCH: N_("Benchmark"),
    RunKind.QUALITY: N_("Quality"),
    RunKind.WALK: N_("Walk"),
    RunKind.QUIZ: N_("Quiz"),
    RunKind.SWEEP: N_("Memory sweep"),
}
_STATES: dict[str, Text] = {
    text: text for text in (N_("running"), N_("done"), N_("stopped"), N_("failed"), N_("cancelled"))
}

_COMPARABLE = frozenset({RunKind.BENCH, RunKind.QUALITY})
_TEXTS = pa.list_(pa.string())
_SCHEMA = pa.schema(
    {
        "open": pa.string(),
        "when": pa.timestamp("us", tz="UTC"),
        "kind": pa.string(),
        "title": pa.string(),
        "lanes": _TEXTS,
        "ttft": _TEXTS,
        "decode": _TEXTS,
        "failed": pa.string(),
        "state": pa.string(),
        "tag": pa.string(),
        "note": pa.string(),
        "models": _TEXTS,
        "machine": pa.string(),
    }
)

MAX_FILE_MB = 200

log = logging.getLogger(__name__)

BIN_DAYS = 30
"""Entries deleted longer ago are removed for good when somebody opens the history."""
UPLOAD = "history_upload"


def show_list() -> None:
    """Raises StoreError."""
    empty_old()
    choices = resources.history().choices()
    chosen = show_filters(choices)
    count = resources.history().count(chosen)
    show_outcome()
    bar = st.container(horizontal=True, vertical_alignment="center")
    if not count:
        with bar:
            _show_general_actions(chosen, count)
        _show_empty(chosen)
        return
    table = st.container()
    page = _show_pages(count)
    entries = resources.history().entries(chosen, limit=PAGE_SIZE, offset=(page - 1) * PAGE_SIZE)
    with table:
        selected = _show_table(entries)
    with bar:
        _show_actions(selected, chosen, choices.tags)
        _show_general_actions(chosen, count)
    show_pending(entries)


def _show_pages(count: int) -> int:
    """The line below the table; returns the page that is wanted."""
    pages = ceil(count / PAGE_SIZE)
    if st.session_state.get(PAGE, 1) > pages:
        st.session_state[PAGE] = pages
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        shown = st.container(width="content")
        page = st.pagination(pages, key=PAGE, bind="query-params", persist_state="session")
    first = (page - 1) * PAGE_SIZE + 1
    shown.caption(
        _(
            "{first} to {last} of {total}",
            first=units.count(first),
            last=units.count(min(first + PAGE_SIZE - 1, count)),
            total=units.count(count),
        )
    )
    return page


def show_outcome() -> None:
    """The outcome of the last action, with a way back; or its error."""
    state = history_state.state()
    if state.problem:
        show_error(state.problem)
    if state.message:
        st.success(state.message, icon=":material/check:")
        state.message = ""
    if state.deleted:
        with st.container(horizontal=True, vertical_alignment="center"):
            text = ngettext("{n} entry deleted.", "{n} entries deleted.", len(state.deleted))
            st.markdown(f":material/delete: {text}", width="content")
            st.button(
                _("Undo"),
                icon=":material/undo:",
                key="history_undo",
                on_click=restore_entries,
                args=(state.deleted,),
            )
    state.problem = None


def _show_table(entries: Sequence[HistoryEntry]) -> tuple[HistoryEntry, ...]:
    """Returns the entries whose rows are selected."""
    # Rows are selected by their place: another set of rows is another table, in which nothing is selected.
    shown = zlib.crc32(" ".join(entry.id for entry in entries).encode())
    chosen = st.dataframe(
        rows(entries),
        key=f"history_table_{history_state.state().round}_{shown}",
        height="content",
        column_config=_columns(entries),
        hide_index=True,
        on_select="rerun",
        selection_mode="multi-row",
        placeholder="",
        alt=_("Turns and runs, newest first"),
    )
    return tuple(entries[place] for place in chosen.selection.rows if place < len(entries))


def rows(entries: Sequence[HistoryEntry]) -> pa.Table:
    """The table of these entries; figures of lanes stand in the lanes' order."""
    return pa.Table.from_pylist([_row(entry) for entry in entries], schema=_SCHEMA)


def failures(summary: Summary | None) -> str:
    """`2 of 40`: requests that failed, of all that were answered or failed."""
    if summary is None:
        return units.UNKNOWN
    return _(
        "{part} of {total}",
        part=units.count(summary.failed),
        total=units.count(summary.answered + summary.failed),
    )


def comparable(entries: Sequence[HistoryEntry]) -> bool:
    """Whether all of them are runs of one kind, and as many as can be compared."""
    kinds = {entry.kind for entry in entries}
    return 2 <= len(entries) <= MAX_RUNS and len(kinds) == 1 and kinds <= _COMPARABLE


def _row(entry: HistoryEntry) -> dict[str, object]:
    return {
        "open": ":material/open_in_full:",
        "when": entry.created_at,
        "kind": _kind(entry),
        "title": _(entry.title),
        "lanes": entry.lanes,
        "ttft": _figures(entry.summary, lambda lane: units.milliseconds(lane.ttft_s)),
        "decode": _figures(entry.summary, lambda lane: _speed(lane.decode_tok_per_s)),
        "failed": failures(entry.summary),
        "state": _(_STATES.get(entry.state, entry.state)),
        "tag": entry.tag,
        "note": " ".join(entry.note.split()),
        "models": entry.models,
        "machine": entry.host,
    }


def _kind(entry: HistoryEntry) -> str:
    name = _KIND_NAMES[entry.kind]
    return _("{kind} with images", kind=name) if entry.with_images else _(name)


def _figures(summary: Summary | None, text: Callable[[LaneSummary], str]) -> list[str]:
    return [text(lane) for lane in summary.lanes] if summary else []


def _speed(tok_per_s: float | None) -> str:
    return units.tok_per_s(tok_per_s).removesuffix(" tok/s")


def _columns(entries: Sequence[HistoryEntry]) -> dict[str, Any]:
    lanes = list(dict.fromkeys(lane for entry in entries for lane in entry.lanes))
    config = st.column_config
    return {
        "open": config.ButtonColumn(
            "",
            width=50,
            pinned=True,
            type="tertiary",
            key=_OPEN,
            on_click=_open_clicked,
            args=(entries,),
            help=_("Open"),
        ),
        "when": config.DatetimeColumn(
            _("Date"), format="YYYY-MM-DD HH:mm", timezone=str(history_state.zone()), width=130
        ),
        "kind": config.TextColumn(_("Kind"), width=80),
        "title": config.TextColumn(_("Prompt or title"), width=230),
        "lanes": config.MultiselectColumn(
            _("Lanes"), options=lanes, color=[color_of(lane) for lane in lanes]
        ),
        "ttft": config.ListColumn("TTFT", help=_(_FIGURES_HELP)),
        "decode": config.ListColumn(_("Decode, tok/s"), help=_(_FIGURES_HELP)),
        "failed": config.TextColumn(
            _("Failed"), width=80, help=_("Failed requests, out of all that finished.")
        ),
        "state": config.TextColumn(_("State"), width=80),
        "tag": config.TextColumn(_("Tag"), width=90),
        "note": config.TextColumn(_("Note"), width=160),
        "models": config.ListColumn(_("Models")),
        "machine": config.TextColumn(_("Machine"), width=100),
    }


def _open_clicked(entries: Sequence[HistoryEntry]) -> None:
    history_state.open_entry(entries[st.session_state[_OPEN].row])


def _show_actions(selected: Sequence[HistoryEntry], chosen: HistoryFilter, tags: Sequence[str]) -> None:
    """The actions on the selected rows."""
    is_own = all(is_mine(entry.owner) for entry in selected)
    if chosen.deleted:
        st.button(
            _("Restore"),
            icon=":material/restore_from_trash:",
            disabled=not selected or not is_own,
            on_click=restore_entries,
            args=(selected,),
        )
        return
    st.button(
        _("Open"),
        icon=":material/open_in_full:",
        disabled=len(selected) != 1,
        on_click=history_state.open_entry,
        args=tuple(selected[:1]),
    )
    st.button(
        _("Compare"),
        icon=":material/compare_arrows:",
        type="primary",
        disabled=not comparable(selected),
        on_click=history_state.open_comparison,
        args=([entry.id for entry in selected],),
        help=_("Select two to six benchmark runs."),
    )
    if is_read_only():
        return
    # A new one for each selection: the open one would stay open when what was selected is tagged.
    key = f"history_tag_popover_{history_state.state().round}"
    with st.popover(_("Tag"), icon=":material/label:", disabled=not selected or not is_own, key=key):
        _show_tagging(selected, tags)
    running = any(entry.state == RunState.RUNNING for entry in selected)
    st.button(
        _("Delete"),
        icon=":material/delete:",
        disabled=not selected or running or not is_own,
        on_click=delete_entries,
        args=(selected,),
        help=_("Running entries can't be deleted.") if running else _("You can undo this."),
    )


def _show_tagging(selected: Sequence[HistoryEntry], tags: Sequence[str]) -> None:
    tag_control(tags, key=_TAGGED)
    st.button(
        ngettext("Tag {n} entry", "Tag {n} entries", len(selected)),
        type="primary",
        on_click=tag_entries,
        args=(selected, _TAGGED),
        help=_("Replaces their current tags. To remove the tags, leave this empty."),
    )


def tag_control(tags: Sequence[str], *, key: str, value: str = "") -> DeltaGenerator | str | None:
    """One of the known tags, or a new one."""
    options = list(dict.fromkeys([*tags, value] if value else tags))
    return st.selectbox(
        _("Tag"),
        options,
        index=options.index(value) if value else None,
        key=key,
        accept_new_options=True,
        placeholder=_("Choose or type a tag"),
    )


def _show_general_actions(chosen: HistoryFilter, count: int) -> None:
    """The actions that need no selection."""
    if not chosen.deleted:
        if may(Action.IMPORT):
            show_import()
        return
    if not may(Action.PURGE):
        return
    with st.popover(_("Empty the bin"), icon=":material/delete_forever:", disabled=not count):
        st.markdown(
            _(
                "Permanently deletes everything in the bin, with its texts and timings. Images that are used "
                "elsewhere are kept."
            )
        )
        st.button(_("Delete permanently"), type="primary", on_click=empty_bin)


def _show_empty(chosen: HistoryFilter) -> None:
    if chosen == HistoryFilter(deleted=True):
        st.info(
            _(
                "The bin is empty. Deleted entries stay here for {days} days.",
                days=BIN_DAYS,
            ),
            icon=":material/delete:",
        )
    elif chosen != HistoryFilter():
        st.info(_("No entries match these filters."), icon=":material/filter_alt:")
    else:
        st.info(
            _("There are no measurements yet. Ask something on the Chat page, or run or import a benchmark."),
            icon=":material/history:",
        )


def show_import() -> None:
    """A popover with the upload; the run opens as soon as the file is here."""
    with st.popover(_("Import"), icon=":material/upload_file:", key="history_import"):
        st.markdown(_("Upload the JSON file of a run, exported here or with `lmdyno runs export`."))
        st.file_uploader(
            _("Exported run"),
            type="json",
            max_upload_size=MAX_FILE_MB,
            key=UPLOAD,
            on_change=import_upload,
        )


def pending(entries: Sequence[HistoryEntry]) -> list[HistoryEntry]:
    """The ended load tests without a summary."""
    unreadable = history_state.state().unreadable
    return [
        entry
        for entry in entries
        if entry.kind is RunKind.BENCH
        and entry.summary is None
        and entry.state != RunState.RUNNING
        and entry.id not in unreadable
    ]


def show_pending(entries: Sequence[HistoryEntry]) -> None:
    """Make them one by one, then draw the list again; a click in between is served at once."""
    left = pending(entries)
    if not left:
        return
    bar = st.progress(0.0, text=_("Summarising new runs"))
    for place, entry in enumerate(left):
        bar.progress(place / len(left), text=_("Summarising {title}", title=escape(_(entry.title))))
        _summarise(entry)
    st.rerun()


def _summarise(entry: HistoryEntry) -> None:
    try:
        summary = summarise(resources.bench_runs().record(entry.id))
        resources.history().keep_summary(entry.id, entry.updated_at, summary)
    except StoreError:
        # The run's own page says what is wrong with it; the list shows it without figures.
        history_state.state().unreadable.add(entry.id)


def delete_entries(entries: Sequence[HistoryEntry]) -> None:
    """Into the bin; can be undone."""
    with _problem_kept():
        for kind in RunKind:
            resources.history().delete(kind, _ids_of_kind(entries, kind))
        history_state.show_list()
        history_state.done(deleted=entries)


def restore_entries(entries: Sequence[HistoryEntry]) -> None:
    with _problem_kept():
        for kind in RunKind:
            resources.history().restore(kind, _ids_of_kind(entries, kind))
        history_state.done(ngettext("{n} entry restored.", "{n} entries restored.", len(entries)))


def empty_bin() -> None:
    """Everything that was deleted goes for good."""
    with _problem_kept():
        removed = _purge(utc_now())
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


def tag_entries(entries: Sequence[HistoryEntry], key: str) -> None:
    """Write the tag that stands in the widget `key`; an empty one takes the entries' tags away."""
    text = (st.session_state[key] or "").strip()
    with _problem_kept():
        for kind in RunKind:
            resources.history().set_tag(kind, _ids_of_kind(entries, kind), text)
        if text:
            message = ngettext("{n} entry tagged.", "{n} entries tagged.", len(entries))
        else:
            message = ngettext("Tag of {n} entry removed.", "Tags of {n} entries removed.", len(entries))
        history_state.done(message)


def annotate_entry(entry: HistoryEntry, note_key: str, tag_key: str) -> None:
    """Write the note and tag that stand in these widgets."""
    note, text = st.session_state[note_key] or "", st.session_state[tag_key] or ""
    with _problem_kept():
        resources.history().annotate(entry.kind, entry.id, note=note.strip(), tag=text.strip())
        history_state.done(_("Saved."))


def import_upload() -> None:
    """Import the uploaded file and show its run; a problem is kept for the page to show."""
    upload = st.session_state[UPLOAD]
    if upload is None:
        return
    with _problem_kept():
        imported = import_run(upload, resources.bench_runs(), resources.quality_runs())
        run = imported.run
        if imported.is_new:
            resources.history().annotate(imported.kind, run.id, note=run.note, tag=run.tag)
        history_state.open_run(run.id, imported.kind)
        history_state.done(
            _("Imported.") if imported.is_new else _("This run already exists. Nothing was imported.")
        )


@contextmanager
def _problem_kept() -> Iterator[None]:
    """Keep an error for the page to show; what stands below the call that failed is not done."""
    try:
        yield
    except LMDynoError as error:
        history_state.state().problem = ErrorInfo.of(error)


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


def _ids_of_kind(entries: Sequence[HistoryEntry], kind: RunKind) -> list[str]:
    return [entry.id for entry in entries if entry.kind is kind]
