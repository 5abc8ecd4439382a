"""The pages of single entries: a benchmark run, a turn, a walk, a quiz, and a memory sweep.

Each has the way back, what can be done with the entry, its note, the result, and what it was measured with.
"""

from typing import TypeVar

import streamlit as st

from core import units
from core.access.guard import is_read_only
from core.bench.results.comparison import Difference, everything
from core.codec import decode, encode_plain
from core.domain.bench import BenchRecord, RunState
from core.domain.history import HistoryEntry, RunKind
from core.domain.turns import Machine, TurnRecord
from core.errors import InputError
from core.i18n import _
from core.image_quiz.results import QuizRun
from core.memory_sweep.results import SweepRun
from core.reports.walk_html import walk_html
from core.ui.benchmark.results import show_plan, show_results
from core.ui.chat.quiz import show_results as show_quiz_results
from core.ui.chat.session import CHAT, CONVERSATION, VISION, ConversationPage
from core.ui.chat.turn import show_turn
from core.ui.engines.walk import show_steps
from core.ui.history import entry as history_entry
from core.ui.memory.sweep import show_points
from core.ui.replay.views import show_load_replay, show_turn_replay, show_walk_replay
from core.ui.shared import resources
from core.ui.shared.components import escape, show_error
from core.ui.shared.visitor import show_export

EXPORT_SCHEMA_VERSION = 1

Run = TypeVar("Run", QuizRun, SweepRun)


def show_run(run_id: str) -> None:
    """Raises StoreError."""
    history_entry.show_way_back()
    entry = history_entry.find(run_id, RunKind.BENCH)
    if entry is None:
        return
    with st.spinner(_("Reading the run"), show_time=True):
        record = resources.run_records().record(run_id)
    with st.container(horizontal=True):
        if record.run.state is RunState.RUNNING:
            st.button(_("Refresh"), icon=":material/refresh:", help=_("Load new results."))
        history_entry.show_entry_actions(entry)
    history_entry.show_annotation(entry)
    if record.run.state is not RunState.RUNNING and history_entry.wants_replay(run_id):
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
    history_entry.show_way_back()
    entry = history_entry.find(turn_id, RunKind.CHAT)
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
        history_entry.show_entry_actions(entry)
    history_entry.show_annotation(entry)
    st.caption(f"{history_entry.moment(turn.created_at)} · {escape(entry.host or units.UNKNOWN)}")
    if turn.done and history_entry.wants_replay(turn.id):
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
        st.table(history_entry.machine_rows(turn.machine), border="horizontal", width="content")
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
    history_entry.show_way_back()
    entry = history_entry.find(walk_id, RunKind.WALK)
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
        history_entry.show_entry_actions(entry)
    history_entry.show_annotation(entry)
    st.caption(f"{history_entry.moment(run.created_at)} · {escape(entry.host or units.UNKNOWN)}")
    if history_entry.wants_replay(run.id):
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
    show_points(sweep_id, run, export=True)
    _show_environment(run.machine)


def _read(kind: RunKind, result_id: str, record: type[Run]) -> tuple[HistoryEntry | None, Run | None]:
    """The entry and its result; says why if one of them can't be shown."""
    history_entry.show_way_back()
    entry = history_entry.find(result_id, kind)
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
        history_entry.show_entry_actions(entry)
    history_entry.show_annotation(entry)
    st.subheader(escape(_(entry.title)), anchor=False)
    st.caption(f"{history_entry.moment(entry.created_at)} · {escape(entry.host or units.UNKNOWN)}")


def _show_environment(machine: Machine | None) -> None:
    with st.expander(_("Environment"), icon=":material/developer_board:"):
        st.table(history_entry.machine_rows(machine), border="horizontal", width="content")
