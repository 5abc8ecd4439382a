"""The answers of a turn, a column for each lane, streaming at the same time, each with its figures below.

Each lane that is not done runs in a parallel fragment and follows its request. Following is only looking: a
script run that ends, for whatever reason, changes nothing about the request.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from threading import Event, Lock
from time import monotonic, sleep

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from core import units
from core.access.guard import current_identity
from core.access.identity import Person
from core.domain.turns import FinishReason, Phase, RequestRecord, TurnRecord, UsageWindow
from core.engines.registry import EngineState
from core.errors import LMDynoError
from core.i18n import N_, _, ngettext
from core.meter.protocol import Update
from core.ui.chat import session as chat_session
from core.ui.engines import status as engine_status
from core.ui.engines.status import show_log
from core.ui.shared import resources
from core.ui.shared.components import Slots, describe_lane, escape, images_given, lane_label, show_error
from core.ui.shared.live_text import PAGE_CHARS, LiveText, show_plain, show_text

_ANSWER_HEIGHT_PX = 360
"""Of an answer that comes, and of a long one that is not expanded."""
MIN_LANE_WIDTH_PX = 210
_ONE_ROW_LANES = 4
_WIDTH_CHARS = 150
"""Characters in a line as wide as the page."""
_BOX_LINES = 13
_STATUS_INTERVAL_S = 0.5
_YIELD_S = 0.1
"""How soon a click is noticed while nothing is drawn."""
_YIELDS_PER_S = 200
"""Of all sessions together, since each look wakes a thread: in a crowd each looks less often."""
_PARTS = ("status", "reasoning", "text", "end")
"""The places in an answer's box, the same while it comes and afterwards."""

_TTFT_HELP = N_(
    "**Time to first token**: from sending the request to the first chunk with text. n = 1 request."
)
_TTFT_IMAGES_HELP = N_(
    "**Time to first token**: from sending the request to the first chunk with text. n = 1 request. It "
    "includes preparing the images, so don't compare it with requests that have text only."
)
_DECODE_HELP = N_(
    "**Decode speed** = 1 / TPOT, TPOT = (last chunk − first chunk) / (output tokens − tokens in the first "
    "chunk). n = 1 request. Shown as – if the engine gave no token count or fewer than two chunks."
)
_E2E_HELP = N_(
    "**End-to-end latency**: from sending the request to the last chunk with text. It depends on the "
    "answer's length. n = 1 request."
)
_FINISH_NAMES = {
    FinishReason.STOP: N_("finished"),
    FinishReason.LENGTH: N_("reached the token limit"),
    FinishReason.CANCELLED: N_("stopped by you"),
    FinishReason.ERROR: N_("failed"),
}


class _Count:
    """How many threads of this process are within its `with` blocks."""

    def __init__(self) -> None:
        self.number = 0
        self._changing = Lock()

    def __enter__(self) -> None:
        with self._changing:
            self.number += 1

    def __exit__(self, *_: object) -> None:
        with self._changing:
            self.number -= 1


_waiting = _Count()


@dataclass(slots=True)
class RunningLane:
    """A lane that is being followed in a fragment of its own."""

    request: RequestRecord
    """The final record once the request is done and drawn."""
    ended: Event = field(default_factory=Event)
    """Set when nothing more will be drawn, for whatever reason."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One answer compared with the others of its turn."""

    first_token_fastest: bool = False
    decode_fastest: bool = False
    baseline: str | None = None
    speed_ratio: float | None = None
    """Decode speed over the baseline lane's; None for the baseline itself or without both speeds."""


def show_lanes(turn: TurnRecord, *, baseline: str | None, expanded: bool) -> list[RunningLane]:
    """Draw the turn's answers; returns the lanes that still run.

    The box of an answer that isn't long is as high as its text. Longer answers are cut at one height and
    shown from their beginning, unless they are expanded.
    """
    compare = standings(turn.requests, baseline)
    columns = columns_of(turn)
    running: list[RunningLane] = []
    grid = st.grid(columns, min_column_width=MIN_LANE_WIDTH_PX)
    for request in turn.requests:
        with grid.cell():
            _show_head(request)
            if request.phase is Phase.DONE:
                height = _ANSWER_HEIGHT_PX if _exceeds_box(request, columns) and not expanded else None
                _show_finished(request, compare.get(request.id), height=height)
            else:
                lane = RunningLane(request)
                running.append(lane)
                _follow(lane)
    return running


def is_long(turn: TurnRecord) -> bool:
    """Whether an answer of the turn is longer than its box, as far as can be told without the browser."""
    return any(_exceeds_box(request, columns_of(turn)) for request in turn.requests)


def _exceeds_box(request: RequestRecord, columns: int) -> bool:
    line_chars = _WIDTH_CHARS // columns
    return sum(1 + len(line) // line_chars for line in request.text.splitlines()) > _BOX_LINES


def columns_of(turn: TurnRecord) -> int:
    """One row of up to four lanes, else two rows."""
    lanes = len(turn.requests)
    return lanes if lanes <= _ONE_ROW_LANES else (lanes + 1) // 2


def _show_head(request: RequestRecord) -> None:
    st.markdown(f"{lane_label(request.lane.name)}  \n:small[:gray[{describe_lane(request.lane)}]]")


def wait_until_done(running: list[RunningLane]) -> bool:
    """Keep the script run alive while lanes stream: a click ends it soon.

    False if a lane could not be followed to its end.
    """
    with _waiting:
        while not all(lane.ended.is_set() for lane in running):
            chat_session.tick()
            sleep(max(_YIELD_S, _waiting.number / _YIELDS_PER_S))
    # A superseded run must end as such here, however its lanes ended: one that ends well would clear the
    # clicks that belong to the run after it.
    chat_session.tick()
    return all(lane.request.phase is Phase.DONE for lane in running)


@st.fragment(parallel=True)
def _follow(lane: RunningLane) -> None:
    box = _answer_box(lane.request, _ANSWER_HEIGHT_PX, running=True)
    figures = st.container()
    try:
        lane.request = _stream(lane.request, box, chat_session.updates(lane.request))
        with figures:
            show_figures(lane.request)
    except LMDynoError as error:
        with figures:
            show_error(error)
    finally:
        lane.ended.set()


def _stream(
    request: RequestRecord, box: DeltaGenerator, updates: Generator[Update | None, None, None]
) -> RequestRecord:
    """Draw what comes until the request is done; returns its record."""
    with box, Slots(*_PARTS) as slots:
        with slots.fill("status"):
            status = _StatusLine(request)
        reasoning_place = slots.fill("reasoning")
        reasoning: LiveText | None = None
        with slots.fill("text"):
            text = LiveText(opened_s=chat_session.opened_s())
        with closing(updates):
            for update in updates:
                chat_session.tick()
                if update:
                    status.update(update)
                    if update.reasoning and reasoning is None:
                        with reasoning_place, reasoning_expander():
                            reasoning = LiveText(opened_s=chat_session.opened_s())
                    if reasoning:
                        reasoning.append(update.reasoning)
                    text.append(update.content)
                final = update is not None and update.record is not None
                for part in (reasoning, text):
                    if part:
                        part.draw(final=final)
                status.draw()
                if update and update.record:
                    status.clear()
                    with slots.fill("end"):
                        _show_end(update.record)
                    return update.record
    raise RuntimeError(f"the updates of request {request.id} ended before it was done")


def _show_finished(record: RequestRecord, standing: Standing | None, *, height: int | None) -> None:
    """Every part in the place that it had in `_follow`, whose fragment is a container of its own."""
    with st.container(height="stretch"):
        with _answer_box(record, height, running=False), Slots(*_PARTS) as slots:
            if record.reasoning:
                with slots.fill("reasoning"), reasoning_expander():
                    show_text(record.reasoning, key=f"reasoning_{record.id}")
            with slots.fill("text"):
                show_text(record.text, key=f"text_{record.id}")
            with slots.fill("end"):
                _show_end(record)
        with st.container():
            show_figures(record, standing)
            if record.error and record.lane.is_local:
                _offer_restart(record)


def _answer_box(request: RequestRecord, height: int | None, *, running: bool) -> DeltaGenerator:
    # A box of its own when it has ended: the one that followed the text is scrolled to where that was.
    key = f"answer_{request.lane.name}_{request.id}_{'running' if running else 'ended'}"
    # Not while it is read again: a finished text would jump to its end.
    return st.container(height=height or "stretch", border=True, autoscroll=running, key=key)


def reasoning_expander() -> DeltaGenerator:
    return st.expander(_("Reasoning"), type="compact", icon=":material/psychology:")


def _show_end(record: RequestRecord) -> None:
    """The error, or the reason for no text, where the text ends."""
    if record.error:
        show_error(record.error)
    elif not record.text and not record.reasoning:
        st.caption(_without_text(record))


def _without_text(record: RequestRecord) -> str:
    if record.finish_reason is not FinishReason.CANCELLED:
        return _("The lane ended without any text.")
    if record.timing is None:
        return _("Not sent: stopped before its turn.")
    return _("Stopped before the first token.")


def _offer_restart(record: RequestRecord) -> None:
    """The log and a way to start again, while this lane's engine is down."""
    known = [lane.name for lane in resources.lanes().lanes]
    name = record.lane.name
    if name in known and resources.manager().status(name).state is EngineState.FAILED:
        show_log(name)
        st.button(
            _("Start the engine again"),
            icon=":material/restart_alt:",
            key=f"restart_{record.id}",
            on_click=engine_status.restart,
            args=(name,),
        )


class _StatusLine:
    """The reason why a lane has no text yet; sent only when it changes."""

    def __init__(self, request: RequestRecord) -> None:
        self._slot = st.empty()
        self._request = request
        self._phase = request.phase
        self._place: int | None = None
        self._since_s = monotonic()
        self._due_s = 0.0
        self._shown = ""

    def update(self, update: Update) -> None:
        if update.phase is not self._phase:
            self._since_s = monotonic()
        if (update.phase, update.place) != (self._phase, self._place):
            self._phase, self._place = update.phase, update.place
            self._due_s = 0.0

    def draw(self) -> None:
        now_s = monotonic()
        if now_s < self._due_s:
            return
        self._due_s = now_s + _STATUS_INTERVAL_S
        if (text := self._text(now_s - self._since_s)) != self._shown:
            self._shown = text
            if text:
                self._slot.markdown(text)
            else:
                self._slot.empty()

    def clear(self) -> None:
        if self._shown:
            self._slot.empty()

    def _text(self, elapsed_s: float) -> str:
        match self._phase:
            case Phase.QUEUED:
                if self._place:
                    return _shimmering(_("Queued, position {place}", place=self._place))
                return _shimmering(_("Waiting for its turn"))
            case Phase.STARTING:
                return _starting_text(self._request)
            case Phase.SETTLING:
                return _shimmering(_("Waiting until a stopped request is finished"), elapsed_s)
            case Phase.SENT:
                return _shimmering(_("Waiting for the first token"), elapsed_s)
            case _:
                return ""


def _starting_text(request: RequestRecord) -> str:
    """The stage of the engine's start-up, as its manager knows it."""
    if not request.lane.is_local:
        return _shimmering(_("Connecting"))
    status = resources.manager().status(request.lane.name)
    stage = _(status.stage) if status.stage else _("Starting the engine")
    head = _shimmering(stage, status.elapsed_s)
    return f"{head}\n\n:small[:gray[{escape(status.last_log_line)}]]" if status.last_log_line else head


def _shimmering(text: str, elapsed_s: float | None = None) -> str:
    """A text that shows that something goes on, and for how long already."""
    shimmer = f":shimmer[{escape(text)}]"
    return shimmer if elapsed_s is None else f"{shimmer} · {units.duration(elapsed_s)}"


def standings(records: Sequence[RequestRecord], baseline: str | None) -> dict[str, Standing]:
    """By request id. Failed lanes have no standing; the fastest is one of at least two with the figure.

    Where the baseline lane was not asked, the first lane takes its place.
    """
    names = [record.lane.name for record in records]
    if baseline not in names:
        baseline = names[0] if names else None
    records = [record for record in records if record.finish_reason is not FinishReason.ERROR]
    first = _best(records, lambda record: record.ttft_s, min)
    decode = _best(records, lambda record: record.decode_tok_per_s, max)
    reference = next((r.decode_tok_per_s for r in records if r.lane.name == baseline), None)
    return {
        record.id: Standing(
            first_token_fastest=record.id == first,
            decode_fastest=record.id == decode,
            baseline=baseline,
            speed_ratio=record.decode_tok_per_s / reference
            if reference and record.decode_tok_per_s and record.lane.name != baseline
            else None,
        )
        for record in records
    }


def show_figures(record: RequestRecord, standing: Standing | None = None) -> None:
    """TTFT, decode speed and E2E as cards; tokens, finish reason and notes below."""
    standing = standing or Standing()
    with st.container(horizontal=True, gap="small"):
        images = record.image_count
        _card(
            ngettext("TTFT with {n} image", "TTFT with {n} images", images) if images else "TTFT",
            units.milliseconds(record.ttft_s),
            _(_TTFT_IMAGES_HELP if images else _TTFT_HELP),
            best=standing.first_token_fastest,
        )
        _card(
            _("Decode"),
            units.tok_per_s(record.decode_tok_per_s),
            _(_DECODE_HELP),
            best=standing.decode_fastest,
        )
        _card("E2E", units.milliseconds(record.e2e_s), _(_E2E_HELP))
    with Slots("summary", "controls", "images", "notes") as slots:
        with slots.fill("summary"):
            st.caption(summary(record, standing))
        with slots.fill("controls"), st.container(horizontal=True, gap="small"):
            if record.text:
                _copy_control(record.text, key=f"copy_{record.id}")
            usage_control(record)
        if record.image_count:
            with slots.fill("images"):
                st.caption(f":material/image: {images_given(record)}")
        if record.notes:
            with slots.fill("notes"):
                for note in record.notes:
                    st.caption(f":orange[:material/info:] {escape(_(note))}")


def summary(record: RequestRecord, standing: Standing) -> str:
    """`34 tokens in · 128 out · finished · 1.84× the decode speed of hf`, in Markdown."""
    parts = []
    if record.prompt_tokens is None and record.output_tokens is None:
        parts.append(_("token counts unknown"))
    else:
        tokens_in, tokens_out = units.count(record.prompt_tokens), units.count(record.output_tokens)
        if record.cached_tokens:
            cached = units.count(record.cached_tokens)
            parts.append(_("{count} tokens in ({cached} cached)", count=tokens_in, cached=cached))
        else:
            parts.append(_("{count} tokens in", count=tokens_in))
        parts.append(_("{count} out", count=tokens_out))
    if record.finish_reason:
        parts.append(_stopped(record.stopped_by) or _(_FINISH_NAMES[record.finish_reason]))
    if record.place and record.place.caption:
        parts.append(escape(_(record.place.caption)))
    if standing.speed_ratio is not None and standing.baseline:
        parts.append(
            _(
                "**{ratio}** the decode speed of {lane}",
                ratio=units.ratio(standing.speed_ratio),
                lane=escape(standing.baseline),
            )
        )
    return " · ".join(parts)


def _stopped(by: Person | None) -> str | None:
    """The person who stopped an answer, if that was somebody else."""
    if by is None or by.id == current_identity().id:
        return None
    return _("stopped by {name}", name=escape(by.name))


def _copy_control(text: str, *, key: str) -> None:
    """The text as it was generated; the corner of its box holds Streamlit's own copy button."""
    label, icon, explanation = (
        _("Show as text"),
        ":material/content_copy:",
        _("The answer as plain Markdown, ready to copy."),
    )
    if len(text) > PAGE_CHARS:
        if st.button(label, icon=icon, type="tertiary", key=key, help=explanation):
            show_plain(text)
        return
    with st.popover(label, icon=icon, type="tertiary", key=key, help=explanation):
        st.code(text, language=None, wrap_lines=True, height=320 if len(text) > 600 else "content")


def _card(label: str, value: str, help_text: str, *, best: bool = False) -> None:
    if best:
        label = f"{label} :green-badge[:material/trophy:]"
        help_text = f"**{_('The fastest of this turn.')}**\n\n{help_text}"
    st.metric(label, value, help=help_text, width="content")


def _best(
    records: Sequence[RequestRecord],
    figure: Callable[[RequestRecord], float | None],
    choose: Callable[[Sequence[float]], float],
) -> str | None:
    known = {record.id: value for record in records if (value := figure(record)) is not None}
    if len(known) < 2:
        return None
    best = choose(list(known.values()))
    return next(request_id for request_id, value in known.items() if value == best)


def usage_control(record: RequestRecord) -> None:
    """A popover with the request's window; nothing for an answer that has none."""
    if record.window is None:
        return
    with st.popover(
        _("Memory and energy"),
        icon=":material/memory:",
        type="tertiary",
        key=f"usage_{record.id}",
        help=_("Sampled ten times per second while the request ran. n = 1 request."),
    ):
        _show_usage(record, record.window)


def _show_usage(record: RequestRecord, window: UsageWindow) -> None:
    if window.shared:
        others = escape(", ".join(window.others))
        shared = _("shared with {lanes}: not this lane's use alone", lanes=others)
        st.caption(f":orange-badge[{shared}]")
    above_idle = window.idle_power_w is not None and st.toggle(
        _("Without idle power"),
        key=f"idle_{record.id}",
        help=_(
            "Subtracts what the GPUs drew just before the request: {power}.",
            power=units.watts(window.idle_power_w),
        ),
    )
    energy_j = window.energy_above_idle_j if above_idle else window.energy_j
    per_token = record.energy_above_idle_j_per_token if above_idle else record.energy_j_per_token
    rows = {
        _("Energy"): units.joules(energy_j),
        _("Energy per output token"): units.joules(per_token),
        _("Mean power"): units.watts(window.mean_power_w),
        _("Idle power"): units.watts(window.idle_power_w),
        _("Peak GPU memory, this engine"): units.gib(window.peak_gpu_bytes),
        _("Peak GPU memory, all engines"): units.gib(window.peak_used_bytes),
        _("Peak resident memory"): units.gib(window.peak_resident_bytes),
        _("CPU cores in use"): units.UNKNOWN
        if window.mean_cpu_ratio is None
        else f"{window.mean_cpu_ratio:.1f}",
    }
    lines = [_("{name}: **{value}**", name=name, value=value) for name, value in rows.items()]
    st.markdown("  \n".join(lines))
    if window.energy_gap:
        st.caption(_("Energy unknown: {reason}", reason=escape(_(window.energy_gap))))
