"""The figures under an answer, with what each of them means."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import streamlit as st

from core import units
from core.access.guard import current_identity
from core.access.identity import Person
from core.charts.requests import LaneFigures
from core.domain.turns import FinishReason, RequestRecord, UsageWindow
from core.i18n import N_, _, ngettext
from core.ui.shared.components import Slots, escape, images_given
from core.ui.shared.live_text import PAGE_CHARS, show_plain

TTFT_HELP = N_(
    "**Time to first token**: from sending the request to the first chunk with text. n = 1 request."
)
TTFT_IMAGES_HELP = N_(
    "**Time to first token**: from sending the request to the first chunk with text. n = 1 request. It "
    "includes preparing the images, so don't compare it with requests that have text only."
)
DECODE_HELP = N_(
    "**Decode speed** = 1 / TPOT, TPOT = (last chunk − first chunk) / (output tokens − tokens in the first "
    "chunk). n = 1 request. Shown as – if the engine gave no token count or fewer than two chunks."
)
E2E_HELP = N_(
    "**End-to-end latency**: from sending the request to the last chunk with text. It depends on the "
    "answer's length. n = 1 request."
)
FINISH_NAMES = {
    FinishReason.STOP: N_("finished"),
    FinishReason.LENGTH: N_("reached the token limit"),
    FinishReason.CANCELLED: N_("stopped by you"),
    FinishReason.ERROR: N_("failed"),
}


@dataclass(frozen=True, slots=True)
class Standing:
    """One answer compared with the others of its turn."""

    first_token_fastest: bool = False
    decode_fastest: bool = False
    baseline: str | None = None
    speed_ratio: float | None = None
    """Decode speed over the baseline lane's; None for the baseline itself or without both speeds."""


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
        images = record.image_count
        _card(
            ngettext("TTFT with {n} image", "TTFT with {n} images", images) if images else "TTFT",
            units.milliseconds(record.ttft_s),
            _(TTFT_IMAGES_HELP if images else TTFT_HELP),
            best=standing.first_token_fastest,
        )
        _card(
            _("Decode"),
            units.tok_per_s(record.decode_tok_per_s),
            _(DECODE_HELP),
            best=standing.decode_fastest,
        )
        _card("E2E", units.milliseconds(record.e2e_s), _(E2E_HELP))
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
        parts.append(_stopped(record.stopped_by) or _(FINISH_NAMES[record.finish_reason]))
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
        _show(record, record.window)


def _show(record: RequestRecord, window: UsageWindow) -> None:
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
