"""The scorecard of a model: the verdict, a row a lane, and what is missing with the run that fills it.

Also what the overview presents to a room: the scorecard, or in a kiosk several views by turns.
`?present=1&view=turn` presents the newest turn. `?kiosk=1&views=scorecard,session&seconds=15` changes between
two views.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

import streamlit as st

from core import units
from core.access.guard import Action, may
from core.bench.statistics import Ratio
from core.domain.specs import LaneSpec
from core.errors import LMDynoError
from core.i18n import N_, _, ngettext
from core.reports.lane_figures import Counted
from core.reports.scorecard import Gap, Row, Scorecard, Staleness, interval_text, ratio_number, verdict
from core.ui.benchmark import form_state as bench_form
from core.ui.benchmark.runs import show_benchmark_board, speed_tile
from core.ui.chat.page import show_newest_turn_board
from core.ui.history.session import QUALITY, RUN
from core.ui.quality import form as quality_form
from core.ui.sessions.hosting import show_newest_session
from core.ui.shared import resources
from core.ui.shared.components import escape, lane_label, prose, show_error
from core.ui.shared.presenting import is_kiosk, present, show_board

_MODEL = "scorecard_model"
_BASELINE = "scorecard_baseline"
_STALE = {
    Staleness.NEVER_MEASURED: N_("{lane} hasn't been measured yet."),
    Staleness.OTHER_SETTINGS: N_("{lane} was measured with other settings on {date}."),
    Staleness.OTHER_ENGINE_VERSION: N_("{lane} was measured with another engine version on {date}."),
    Staleness.OTHER_MACHINE: N_("{lane} was measured on another machine on {date}."),
}
_STALE_QUALITY = {
    Staleness.NEVER_MEASURED: N_("The quality of {lane} hasn't been measured yet."),
    Staleness.OTHER_SETTINGS: N_("The quality of {lane} was measured with other settings on {date}."),
    Staleness.OTHER_ENGINE_VERSION: N_(
        "The quality of {lane} was measured with another engine version on {date}."
    ),
    Staleness.OTHER_MACHINE: N_("The quality of {lane} was measured on another machine on {date}."),
}

ALL_LANES = ""
"""The group of all lanes, whatever their models."""

_REFRESH_S = 1.0
_VIEW, _VIEWS, _SECONDS = "view", "views", "seconds"
_LEAST_S, _USUAL_S = 5, 20
_USUAL_VIEWS = "scorecard,turn,benchmark"


def show_scorecard() -> None:
    """The section with its controls; nothing without lanes."""
    groups = lanes_by_model(resources.lanes().lanes)
    if not groups:
        return
    st.subheader(_("Scorecard"), anchor=False)
    lanes, baseline = _show_choice(groups)
    try:
        card = read(lanes, baseline)
    except LMDynoError as error:
        show_error(error)
        return
    for sentence in verdict(card):
        st.markdown(f"**{escape(_(sentence))}**")
    _show_table(card)
    _show_quality_verdicts(card)
    _show_origin(card)
    _show_gaps(card)


def read(lanes: Sequence[LaneSpec], baseline: str) -> Scorecard:
    """The scorecard as the store has it now; raises StoreError."""
    versions = {status.name: status.version for status in resources.manager().statuses()}
    return resources.scorecards().scorecard(lanes, baseline, versions)


def _show_choice(groups: dict[str, tuple[LaneSpec, ...]]) -> tuple[tuple[LaneSpec, ...], str]:
    """Model and baseline; no control for what leaves no choice."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        model = next(iter(groups))
        if len(groups) > 1:
            model = st.selectbox(
                _("Model"),
                list(groups),
                format_func=lambda name: _("All lanes") if name == ALL_LANES else name,
                key=_MODEL,
                width=280,
            )
        lanes = groups[model]
        names = [lane.name for lane in lanes]
        baseline = names[0]
        if len(names) > 1:
            baseline = st.selectbox(
                _("Baseline"),
                names,
                key=f"{_BASELINE}_{model}",
                width=200,
                help=_("The lane that the ratios compare with."),
            )
    return lanes, baseline


def _show_table(card: Scorecard) -> None:
    rows = card.rows
    is_gpu = any(row.speed and row.speed.memory_is_gpu for row in rows)
    columns = {
        _("Lane"): [lane_label(row.name) for row in rows],
        _("TTFT, p50"): [_ttft(card, row) for row in rows],
        _("Decode speed, p50"): [_decode(card, row) for row in rows],
        _("Best throughput"): [_throughput(card, row) for row in rows],
        _("Peak GPU memory") if is_gpu else _("Peak memory"): [_memory(card, row) for row in rows],
        _("Energy per token"): [_energy(card, row) for row in rows],
        _("Tasks correct"): [_quality(row) for row in rows],
    }
    st.table(columns, border="horizontal", hide_index=True, alt=_("Scorecard of the lanes"))
    with st.popover(_("What the figures mean"), icon=":material/help:", type="tertiary"):
        _show_meanings()


def _ttft(card: Scorecard, row: Row) -> str:
    figure = row.speed.ttft_p50_s if row.speed else None
    value = units.milliseconds(figure.value if figure else None)
    return _cell(card, row, "ttft_p50_s", value, figure, row.ratios.ttft)


def _decode(card: Scorecard, row: Row) -> str:
    figure = row.speed.decode_p50_tok_per_s if row.speed else None
    value = units.tok_per_s(figure.value if figure else None)
    return _cell(card, row, "decode_p50_tok_per_s", value, figure, row.ratios.decode)


def _throughput(card: Scorecard, row: Row) -> str:
    figure = row.speed.system_tok_per_s if row.speed else None
    point = row.speed.best_point if row.speed else None
    if figure is None or point is None:
        return units.UNKNOWN
    value = _("{speed} at {load}", speed=units.tok_per_s(figure.value), load=point.level.label)
    return _cell(card, row, "system_tok_per_s", value, figure, row.ratios.throughput)


def _memory(card: Scorecard, row: Row) -> str:
    figure = row.speed.peak_memory_bytes if row.speed else None
    return _cell(card, row, "peak_memory_bytes", units.gib(figure.value if figure else None), figure, None)


def _energy(card: Scorecard, row: Row) -> str:
    figure = row.speed.energy_j_per_token if row.speed else None
    value = units.joules(figure.value if figure else None)
    return _cell(card, row, "energy_j_per_token", value, figure, None)


def _quality(row: Row) -> str:
    quality = row.quality
    if quality is None or not quality.asked or quality.right is None:
        return units.UNKNOWN
    parts = [f"**{units.share(quality.right / quality.asked)}**"]
    if quality.interval:
        parts.append(
            f"({units.share(quality.interval.low)}–{units.share(quality.interval.high)}, n = {quality.asked})"
        )
    return " ".join(parts)


def _cell(
    card: Scorecard, row: Row, name: str, value: str, figure: Counted | None, ratio: Ratio | None
) -> str:
    """`52.1 ms` with a trophy for the best, the ratio to the baseline, and n."""
    if figure is None:
        return units.UNKNOWN
    trophy = " :green[:material/trophy:]" if card.best.get(name) == row.name else ""
    facts = [f"n = {figure.n}"]
    if ratio is not None:
        edges = f" ({interval_text(ratio)})" if ratio.interval else ""
        facts.insert(0, f"{ratio_number(ratio.value)}×{edges}")
    return f"**{value}**{trophy}  \n:small[{' · '.join(facts)}]"


def _show_meanings() -> None:
    lines = (
        _("**TTFT, p50**: median time to first token at the lightest load; n is the number of requests."),
        _(
            "**Decode speed, p50**: median of 1 / TPOT at the lightest load, in tokens per second; n is the "
            "number of requests."
        ),
        _(
            "**Best throughput**: output tokens of all requests per second at the load where it was highest; "
            "n is the number of repeats."
        ),
        _("**Peak memory**: of the engine's processes over all loads; n is the number of passes."),
        _("**Energy per token**: of the GPU boards, idle power included, at the lightest load."),
        _("**Tasks correct**: right answers of the newest quality run, with Wilson's 95% interval."),
        _(
            "A ratio such as 0.25× (0.23–0.27) is the lane's figure by the baseline's, with its 95% "
            "interval, from the mean TTFT and the mean TPOT. Only runs with the same prompts and load are "
            "compared."
        ),
        _("A trophy marks the best lane; for TTFT and decode speed only if the interval supports it."),
    )
    st.markdown("\n".join(f"- {line}" for line in lines))


def _show_quality_verdicts(card: Scorecard) -> None:
    sentences = dict.fromkeys(_(row.quality.sentence) for row in card.rows if row.quality)
    if sentences:
        st.caption(f":material/fact_check: {escape(' '.join(sentences))}")


def _show_origin(card: Scorecard) -> None:
    """The runs that the figures come from."""
    runs = {row.speed.run_id: row.speed for row in card.rows if row.speed}
    qualities = {row.quality.run_id: row.quality for row in card.rows if row.quality}
    if not runs and not qualities:
        return
    levels = dict.fromkeys(_(speed.level.label) for speed in runs.values())
    if levels:
        st.caption(_("TTFT, decode speed and energy at {load}.", load=", ".join(levels)))
    with st.container(horizontal=True, gap="small"):
        for run_id, speed in runs.items():
            st.page_link(
                "pages/history.py",
                label=_("Benchmark of {date}", date=f"{speed.measured_at:%Y-%m-%d %H:%M} UTC"),
                icon=":material/speed:",
                query_params={RUN: run_id},
            )
        for run_id, quality in qualities.items():
            st.page_link(
                "pages/history.py",
                label=_("Quality run of {date}", date=f"{quality.measured_at:%Y-%m-%d %H:%M} UTC"),
                icon=":material/fact_check:",
                query_params={QUALITY: run_id},
            )


def _show_gaps(card: Scorecard) -> None:
    """Missing and outdated figures, and buttons that open the form of the run that measures them."""
    lines = [gap_text(row) for row in card.rows if row.speed_gap]
    lines += [
        _gap_text(_STALE_QUALITY, row.name, row.quality_gap)
        for row in card.rows
        if row.quality_gap and row.quality_gap.reason is not Staleness.NEVER_MEASURED
    ]
    if lines:
        st.caption("  \n".join(f":orange[:material/history:] {prose(line)}" for line in lines))
    if not may(Action.START_JOB):
        return
    with st.container(horizontal=True):
        if unmeasured := _able(card.unmeasured):
            label = ngettext("Measure {n} lane", "Measure {n} lanes", len(unmeasured))
            if st.button(label, icon=":material/speed:", type="primary", key="scorecard_measure"):
                bench_form.start_with(_with_baseline(card, unmeasured))
                st.switch_page("pages/benchmark.py")
        if (unassessed := _able(card.without_quality)) and len(_able([row.name for row in card.rows])) > 1:
            label = ngettext(
                "Measure the quality of {n} lane", "Measure the quality of {n} lanes", len(unassessed)
            )
            if st.button(label, icon=":material/fact_check:", key="scorecard_quality"):
                quality_form.start_with(_with_baseline(card, unassessed))
                st.switch_page("pages/quality.py")


def gap_text(row: Row) -> str:
    """The reason why a lane has no benchmark figures; "" if it has some."""
    return _gap_text(_STALE, row.name, row.speed_gap) if row.speed_gap else ""


def _gap_text(texts: Mapping[Staleness, str], lane: str, gap: Gap) -> str:
    date = f"{gap.last.measured_at:%Y-%m-%d}" if gap.last else units.UNKNOWN
    return _(texts[gap.reason], lane=lane, date=date)


def _able(names: Sequence[str]) -> list[str]:
    """Those of the lanes that can run on this machine."""
    specs = {lane.name: lane for lane in resources.lanes().lanes}
    return [name for name in names if name in specs and resources.unfit(specs[name]) is None]


def _with_baseline(card: Scorecard, names: Sequence[str]) -> list[str]:
    """The baseline first: without it in the same run there is nothing to compare with."""
    return list(dict.fromkeys([*_able([card.baseline]), *names]))


def lanes_by_model(lanes: Sequence[LaneSpec]) -> dict[str, tuple[LaneSpec, ...]]:
    """The lanes by the name of their model, those of the first lane's model first; then all together.

    If no two lanes have one model, there is only the group of all.
    """
    groups: dict[str, list[LaneSpec]] = {}
    for lane in lanes:
        groups.setdefault(_model_of(lane), []).append(lane)
    everything = {ALL_LANES: tuple(lanes)} if lanes else {}
    if len(groups) == 1:
        return {name: tuple(group) for name, group in groups.items()}
    if all(len(group) == 1 for group in groups.values()):
        return everything
    return {name: tuple(group) for name, group in groups.items()} | everything


def _model_of(lane: LaneSpec) -> str:
    """An endpoint that names no model is a model of its own, called after its server."""
    if lane.model:
        return lane.model.name
    assert lane.endpoint is not None
    return lane.endpoint.model or urlsplit(lane.endpoint.url).netloc


def show_presented() -> None:
    """Draw the view whose turn it is; refreshes itself."""
    present(lambda: _VIEW_OF[_view_in_turn()](), refresh_s=_REFRESH_S)


def _view_in_turn() -> str:
    """The view that the address names, or in a kiosk the one whose turn it is by the clock."""
    if not is_kiosk():
        return _known_views([st.query_params.get(_VIEW, "")])[0]
    views = _known_views(st.query_params.get(_VIEWS, _USUAL_VIEWS).split(","))
    return views[int(time.time() / _seconds_a_view()) % len(views)]


def _known_views(names: list[str]) -> list[str]:
    return [name for name in names if name in _VIEW_OF] or [next(iter(_VIEW_OF))]


def _seconds_a_view() -> int:
    given = st.query_params.get(_SECONDS, "")
    return max(_LEAST_S, int(given)) if given.isdecimal() else _USUAL_S


def _show_scorecard_board() -> None:
    groups = lanes_by_model(resources.lanes().lanes)
    if not groups:
        st.info(_("There are no lanes."), icon=":material/dns:")
        return
    model, lanes = next(iter(groups.items()))
    card = read(lanes, lanes[0].name)
    headline = next((_(sentence) for sentence in verdict(card)), model or _("Scorecard"))
    st.markdown(f"# {escape(headline)}", anchors=False)
    tiles = [speed_tile(row.name, row.speed, note="" if row.speed else gap_text(row)) for row in card.rows]
    show_board(tiles, key="present_scorecard")


_VIEW_OF: Mapping[str, Callable[[], None]] = {
    "scorecard": _show_scorecard_board,
    "turn": show_newest_turn_board,
    "benchmark": show_benchmark_board,
    "session": show_newest_session,
}
"""The views by their names in the address; the first one is the usual one."""
