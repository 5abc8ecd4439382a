"""The pages of single entries: a benchmark run, a turn, a walk, a quiz, a memory sweep, a quality run.

Each begins with what all have in common: the way back, the actions, note and tag.
"""

from datetime import datetime
from typing import TypeVar

import streamlit as st

from core import units
from core.access.guard import is_read_only
from core.bench.memory_sweep import SweepRun
from core.bench.results.comparison import Difference, everything
from core.codec import decode, encode_plain
from core.domain.runs import BenchRecord, HistoryEntry, RunKind, RunState
from core.domain.turns import Machine, TurnRecord
from core.errors import InputError
from core.i18n import N_, _
from core.quality.image_quiz import QuizRun
from core.quality.results import QualityResult, results
from core.reports.html import quality_html, walk_html
from core.ui.benchmark.runs import show_plan, show_results
from core.ui.chat.quiz import show_results as show_quiz_results
from core.ui.chat.session import CHAT, CONVERSATION, VISION, ConversationPage
from core.ui.chat.turn import show_turn
from core.ui.engines.walk import show_steps
from core.ui.history import session as history_state
from core.ui.history.list_page import (
    annotate_entry,
    delete_entries,
    restore_entries,
    show_outcome,
    tag_control,
)
from core.ui.history.session import REPLAY
from core.ui.memory.measured import show_sweep_points
from core.ui.quality.results import show_results as show_quality_results
from core.ui.replay import show_load_replay, show_turn_replay, show_walk_replay
from core.ui.shared import resources
from core.ui.shared.components import color_of, escape, show_error
from core.ui.shared.visitor import is_mine, show_export

_NOT_FOUND = {
    RunKind.CHAT: N_(
        "Turn `{name}` not found. It was permanently deleted, or it belongs to another machine."
    ),
    RunKind.BENCH: N_(
        "Benchmark run `{name}` not found. It was permanently deleted, or it was measured on another "
        "machine and has to be exported there and imported here."
    ),
    RunKind.QUALITY: N_(
        "Quality run `{name}` not found. It was permanently deleted, or it was made on another machine and "
        "has to be exported there and imported here."
    ),
    RunKind.WALK: N_(
        "Walk `{name}` not found. It was permanently deleted, or it was taken on another machine."
    ),
    RunKind.QUIZ: N_(
        "Quiz `{name}` not found. It was permanently deleted, or it was asked on another machine."
    ),
    RunKind.SWEEP: N_(
        "Memory sweep `{name}` not found. It was permanently deleted, or it was measured on another machine."
    ),
}

EXPORT_SCHEMA_VERSION = 1

Run = TypeVar("Run", QuizRun, SweepRun)


def show_way_back() -> None:
    st.button(
        _("Back to history"),
        icon=":material/arrow_back:",
        type="tertiary",
        key="history_back",
        on_click=history_state.show_list,
    )


def find_entry(item_id: str, kind: RunKind) -> HistoryEntry | None:
    """The way back, and the entry of an address; says why if it can't be shown. Raises StoreError."""
    show_way_back()
    entries = [entry for entry in resources.history().find([item_id]) if entry.kind is kind]
    show_outcome()
    if not entries:
        text = _(_NOT_FOUND[kind], name=escape(item_id[:40]))
        st.warning(text, icon=":material/search_off:")
        return None
    if entries[0].deleted_at is not None:
        show_deleted(entries[0])
        return None
    return entries[0]


def show_deleted(entry: HistoryEntry) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        when = moment(entry.deleted_at) if entry.deleted_at else units.UNKNOWN
        st.warning(
            _("{title} was deleted on {date}.", title=escape(_(entry.title)), date=when),
            icon=":material/delete:",
        )
        st.button(
            _("Restore"),
            icon=":material/restore_from_trash:",
            key=f"history_restore_{entry.id}",
            on_click=restore_entries,
            args=((entry,),),
        )


def show_annotation(entry: HistoryEntry) -> None:
    """The tag and the note, if there are any."""
    parts = [f":blue-badge[:material/label: {escape(entry.tag)}]"] if entry.tag else []
    if entry.note:
        parts.append(f":material/sticky_note_2: {escape(entry.note)}")
    if parts:
        st.markdown(" ".join(parts))


def show_entry_actions(entry: HistoryEntry) -> None:
    link = history_state.link_to(**{history_state.QUERY_OF[entry.kind]: entry.id})
    if not is_mine(entry.owner):
        show_link(link)
        return
    note, tag = f"history_note_{entry.id}", f"history_tag_{entry.id}"
    key = f"history_annotate_{entry.id}"
    with st.popover(_("Note and tag"), icon=":material/edit_note:", key=key):
        st.text_area(_("Note"), value=entry.note, key=note, max_chars=2000)
        tag_control(resources.history().tags(), key=tag, value=entry.tag)
        st.button(_("Save"), type="primary", on_click=annotate_entry, args=(entry, note, tag))
    show_link(link)
    st.button(
        _("Delete"),
        icon=":material/delete:",
        disabled=entry.state == RunState.RUNNING,
        on_click=delete_entries,
        args=((entry,),),
        help=_("You can undo this."),
    )


def wants_replay(entry_id: str) -> bool:
    """Whether the visitor wants to see how the entry came about instead of its result."""
    return st.toggle(
        _("Replay"),
        value=REPLAY in st.query_params,
        key=f"history_replay_{entry_id}",
        help=_("Shows what was recorded with its original timing. Nothing is measured."),
    )


def show_link(url: str) -> None:
    """A popover with the address; its corner holds Streamlit's own copy button."""
    with st.popover(_("Link"), icon=":material/link:", key="history_link"):
        st.markdown(_("Anyone who can reach this dashboard can open this link."))
        st.code(url, language=None, wrap_lines=True)


def moment(at: datetime) -> str:
    """A date and time by the visitor's clock."""
    local = at.astimezone(history_state.zone())
    return f"{local:%Y-%m-%d %H:%M} {local.tzname()}"


def machine_rows(machine: Machine | None) -> dict[str, str]:
    """The known facts of a machine, for a table; as it was when the entry was measured."""
    if machine is None:
        return {_("Machine"): units.UNKNOWN}
    return {
        _("Machine"): escape(machine.host),
        _("GPUs"): escape(", ".join(machine.gpus)) or _("none"),
        _("Driver"): escape(machine.driver or units.UNKNOWN),
        _("CPU"): _(
            "{cpu}, {cores} cores",
            cpu=escape(machine.cpu or units.UNKNOWN),
            cores=units.count(machine.cores),
        ),
        _("Memory"): units.gib(machine.memory_bytes),
        _("System"): f"{escape(machine.platform)}, Python {escape(machine.python)}",
    }


def show_run(run_id: str) -> None:
    """Raises StoreError."""
    entry = find_entry(run_id, RunKind.BENCH)
    if entry is None:
        return
    with st.spinner(_("Reading the run"), show_time=True):
        record = resources.run_records().record(run_id)
    with st.container(horizontal=True):
        if record.run.state is RunState.RUNNING:
            st.button(_("Refresh"), icon=":material/refresh:", help=_("Load new results."))
        show_entry_actions(entry)
    show_annotation(entry)
    if record.run.state is not RunState.RUNNING and wants_replay(run_id):
        show_load_replay(record)
    else:
        show_results(record, key=f"history_{run_id}")
    _show_facts(record)


def _show_facts(record: BenchRecord) -> None:
    """Every setting and all that is known of the environment, behind a click each."""
    try:
        result = resources.run_records().result(record)
    except InputError:  # a plan of a later version; the results have said so
        return
    settings, environment = everything([result])
    with st.expander(_("Plan"), icon=":material/assignment:"):
        show_plan(result.plan)
        st.table(_table(settings), border="horizontal", width="content")
    with st.expander(_("Environment"), icon=":material/developer_board:"):
        st.table(_table(environment), border="horizontal", width="content")


def _table(rows: tuple[Difference, ...]) -> dict[str, str]:
    """Names and values as they are exported, so as code."""
    return {_code(row.path.removeprefix("plan.")): _code(row.values[0]) for row in rows}


def _code(text: str) -> str:
    return escape(text) if not text.strip() or "`" in text else f"`{text}`"


def show_turn_page(turn_id: str) -> None:
    """Raises StoreError."""
    entry = find_entry(turn_id, RunKind.CHAT)
    turn = resources.store().turn(turn_id) if entry else None
    if entry is None or turn is None:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        if not is_read_only():  # there is no such page then
            st.page_link(
                page_of(turn).file,
                label=_("Open the conversation"),
                icon=":material/forum:",
                query_params={CONVERSATION: turn.conversation_id},
                width="content",
            )
        show_export(
            _("Export JSON"),
            f"{RunKind.CHAT} {turn.id}",
            lambda: turn_json(turn),
            file_name=f"turn-{turn.id}.json",
        )
        show_entry_actions(entry)
    show_annotation(entry)
    st.caption(f"{moment(turn.created_at)} · {escape(entry.host or units.UNKNOWN)}")
    if turn.done and wants_replay(turn.id):
        show_turn_replay(turn)
    elif turn.done:
        show_turn([turn], baseline=None, latest=True)
    else:
        st.info(
            _("Answers are still streaming. To follow them, open the conversation."),
            icon=":material/pending:",
        )
    _show_turn_environment(turn)


def page_of(turn: TurnRecord) -> ConversationPage:
    """The page on which the turn's conversation goes on: one with images where those are shown."""
    return VISION if any(request.image_count for request in turn.requests) else CHAT


def turn_json(turn: TurnRecord) -> bytes:
    """The turn with all its texts and timestamps."""
    return encode_plain({"schema_version": EXPORT_SCHEMA_VERSION, "turn": turn})


def _show_turn_environment(turn: TurnRecord) -> None:
    with st.expander(_("Environment"), icon=":material/developer_board:"):
        st.table(machine_rows(turn.machine), border="horizontal", width="content")
        st.table(
            {
                _("Lane"): [escape(request.lane.name) for request in turn.requests],
                _("Engine"): [escape(request.engine_version or units.UNKNOWN) for request in turn.requests],
                _("Device"): [escape(request.device or units.UNKNOWN) for request in turn.requests],
                _("Node"): [
                    escape((request.place.node if request.place else None) or units.UNKNOWN)
                    for request in turn.requests
                ],
                _("Between meter and engine"): [
                    escape(_(request.place.path) if request.place else units.UNKNOWN)
                    for request in turn.requests
                ],
                _("Served model"): [
                    escape(request.served_model or units.UNKNOWN) for request in turn.requests
                ],
            },
            border="horizontal",
            hide_index=True,
        )


def show_walk(walk_id: str) -> None:
    """Raises StoreError."""
    entry = find_entry(walk_id, RunKind.WALK)
    run = resources.walks().run(walk_id) if entry else None
    if entry is None or run is None:
        return
    name = f"{RunKind.WALK} {run.id}"
    with st.container(horizontal=True, vertical_alignment="center"):
        show_export(
            _("HTML report"),
            name,
            lambda: walk_html(run).encode(),
            file_name=f"walk-{run.id}.html",
            meaning=_("The tutorial's table, filled in by this machine, as one file."),
        )
        show_export("JSON", name, lambda: encode_plain(run), file_name=f"walk-{run.id}.json")
        show_entry_actions(entry)
    show_annotation(entry)
    st.caption(f"{moment(run.created_at)} · {escape(entry.host or units.UNKNOWN)}")
    if wants_replay(run.id):
        show_walk_replay(run)
    else:
        show_steps(run)
    _show_environment(run.machine)


def show_quiz(quiz_id: str) -> None:
    """Raises StoreError."""
    entry, run = _read(RunKind.QUIZ, quiz_id, QuizRun)
    if entry is None or run is None:
        return
    _show_head(entry)
    show_quiz_results(run, drill_down=True)
    _show_environment(run.machine)


def show_sweep(sweep_id: str) -> None:
    """Raises StoreError."""
    entry, run = _read(RunKind.SWEEP, sweep_id, SweepRun)
    if entry is None or run is None:
        return
    _show_head(entry)
    show_sweep_points(sweep_id, run, export=True)
    _show_environment(run.machine)


def _read(kind: RunKind, result_id: str, record: type[Run]) -> tuple[HistoryEntry | None, Run | None]:
    """The entry and its result; says why if one of them can't be shown."""
    entry = find_entry(result_id, kind)
    facts = resources.job_results().facts(kind, result_id) if entry else None
    if facts is None:
        return None, None
    try:
        return entry, decode(record, facts)
    except InputError as error:  # of a later version
        show_error(error)
        return entry, None


def _show_head(entry: HistoryEntry) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        show_entry_actions(entry)
    show_annotation(entry)
    st.subheader(escape(_(entry.title)), anchor=False)
    st.caption(f"{moment(entry.created_at)} · {escape(entry.host or units.UNKNOWN)}")


def _show_environment(machine: Machine | None) -> None:
    with st.expander(_("Environment"), icon=":material/developer_board:"):
        st.table(machine_rows(machine), border="horizontal", width="content")


def show_quality(run_id: str) -> None:
    """Raises StoreError."""
    entry = find_entry(run_id, RunKind.QUALITY)
    if entry is None:
        return
    with st.spinner(_("Reading the run"), show_time=True):
        record = resources.quality_runs().record(run_id)
    with st.container(horizontal=True):
        show_entry_actions(entry)
        show_export(
            _("HTML report"),
            f"{RunKind.QUALITY} {run_id}",
            lambda: quality_html(results(record), record, _colors_of_lanes(results(record))),
            file_name=f"quality-{run_id}.html",
        )
    show_annotation(entry)
    st.subheader(escape(record.run.title), anchor=False)
    if record.run.error is not None:
        show_error(record.run.error)
    try:
        show_quality_results(record, drill_down=True)
    except InputError as error:  # a plan of a later version
        show_error(error)


def _colors_of_lanes(result: QualityResult) -> dict[str, str]:
    return {lane.name: color_of(lane.name) for lane in result.lanes}
