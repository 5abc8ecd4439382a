"""The figures under an answer, with what each of them means."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import streamlit as st

from core import units
from core.access.guard import current_identity
from core.access.identity import Person
from core.charts.turn import LaneFigures
from core.domain.turns import FinishReason, RequestRecord, UsageWindow
from core.i18n import _
from core.ui.shared.components import escape
from core.ui.shared.image_text import counted, given
from core.ui.text.folding import PAGE_CHARS, show_plain

TTFT_HELP = "**Time to first token**: from sending the request to the first chunk with text. n = 1 request."
IMAGES_HELP = "Preparing the images is part of it: not to be compared with text alone."
DECODE_HELP = (
    "**Decode speed** = 1 / TPOT, TPOT = (last chunk − first chunk) / (output tokens − tokens in the first "
    "chunk). n = 1 request; – where the engine gave no token count or fewer than two chunks."
)
E2E_HELP = (
    "**End-to-end latency**: from sending the request to the last chunk with text. Depends on the answer's "
    "length. n = 1 request."
)
FINISH_NAMES = {
    FinishReason.STOP: "ended by itself",
    FinishReason.LENGTH: "reached the token limit",
    FinishReason.TOOL_CALLS: "called a tool",
    FinishReason.CONTENT_FILTER: "cut by the server's content filter",
    FinishReason.CANCELLED: "stopped by you",
    FinishReason.ERROR: "failed",
}


@dataclass(frozen=True, slots=True)
class Standing:
    """How one answer compares with the others of its turn."""

    first_token_fastest: bool = False
    decode_fastest: bool = False
    baseline: str | None = None
    speed_ratio: float | None = None
    """Decode speed over the baseline lane's; None for the baseline itself or without both speeds."""


def standings(records: Sequence[RequestRecord], baseline: str | None) -> dict[str, Standing]:
    """By request id. Failed lanes have no standing; the fastest is one of at least two with the figure."""
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


def lane_figures(record: RequestRecord, standing: Standing) -> LaneFigures:
    return LaneFigures(
        lane=record.lane.name,
        ttft_s=record.ttft_s,
        decode_tok_per_s=record.decode_tok_per_s,
        speed_ratio=standing.speed_ratio,
    )


def show_figures(record: RequestRecord, standing: Standing | None = None) -> None:
    """TTFT, decode speed and E2E as cards; tokens, finish reason and notes below."""
    standing = standing or Standing()
    with st.container(horizontal=True, gap="small"):
        _card(
            _ttft_label(record.image_count),
            units.milliseconds(record.ttft_s),
            f"{TTFT_HELP} {IMAGES_HELP}" if record.image_count else TTFT_HELP,
            best=standing.first_token_fastest,
        )
        _card(
            "Decode",
            units.tok_per_s(record.decode_tok_per_s),
            DECODE_HELP,
            best=standing.decode_fastest,
        )
        _card("E2E", units.milliseconds(record.e2e_s), E2E_HELP)
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.caption(summary(record, standing), width="content")
        if record.text:
            _copy_control(record.text, key=f"copy_{record.id}")
        usage_control(record)
    if record.image_count:
        st.caption(f":material/image: {given(record)}")
    for note in record.notes:
        st.caption(f":orange[:material/info:] {escape(note)}")


def summary(record: RequestRecord, standing: Standing) -> str:
    """`34 tokens in · 128 out · ended by itself · 1.84× hf`, in Markdown."""
    tokens_in = f"{units.count(record.prompt_tokens)} tokens in"
    if record.cached_tokens:
        tokens_in += f" ({units.count(record.cached_tokens)} cached)"
    parts = [tokens_in, f"{units.count(record.output_tokens)} out"]
    if record.finish_reason:
        parts.append(_stopped(record.stopped_by) or FINISH_NAMES[record.finish_reason])
    if standing.speed_ratio is not None and standing.baseline:
        parts.append(
            f"**{units.ratio(standing.speed_ratio)}** the decode speed of {escape(standing.baseline)}"
        )
    return " · ".join(parts)


def _stopped(by: Person | None) -> str | None:
    """Who stopped an answer, if that was somebody else."""
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


def _ttft_label(images: int) -> str:
    return f"TTFT with {counted(images)}" if images else "TTFT"


def _card(label: str, value: str, help_text: str, *, best: bool = False) -> None:
    if best:
        label = f"{label} :green-badge[:material/trophy:]"
        help_text = f"**The fastest of this turn.**\n\n{help_text}"
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
        "Memory and energy",
        icon=":material/memory:",
        type="tertiary",
        key=f"usage_{record.id}",
        help="Sampled ten times a second while the request ran. n = 1 request.",
    ):
        _show(record, record.window)


def _show(record: RequestRecord, window: UsageWindow) -> None:
    if window.shared:
        st.caption(f":orange-badge[shared] with {escape(', '.join(window.others))}: not this lane's alone.")
    above_idle = window.idle_power_w is not None and st.toggle(
        "Without idle power",
        key=f"idle_{record.id}",
        help=f"Takes off what the GPUs drew just before: {units.watts(window.idle_power_w)}.",
    )
    energy_j = window.energy_above_idle_j if above_idle else window.energy_j
    per_token = record.energy_above_idle_j_per_token if above_idle else record.energy_j_per_token
    rows = {
        "Energy": units.joules(energy_j),
        "Energy for an output token": units.joules(per_token),
        "Mean power": units.watts(window.mean_power_w),
        "Idle power": units.watts(window.idle_power_w),
        "Peak GPU memory, this engine": units.gib(window.peak_gpu_bytes),
        "Peak GPU memory, all": units.gib(window.peak_used_bytes),
        "Peak resident memory": units.gib(window.peak_resident_bytes),
        "CPU cores at work": units.UNKNOWN
        if window.mean_cpu_ratio is None
        else f"{window.mean_cpu_ratio:.1f}",
    }
    st.markdown("  \n".join(f"{name}: **{value}**" for name, value in rows.items()))
    if window.energy_gap:
        st.caption(f"No energy: {escape(window.energy_gap)}")
